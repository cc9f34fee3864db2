"""A change as the command an operator would type: ip(8), bridge(8), sysctl(8), nft(8)."""

from __future__ import annotations

from typing import Any, NamedTuple

from hostnet import ownership
from hostnet.kinds import sysctl
from hostnet.state import MAIN_TABLE, Bridge, Link, Nexthop, Route, Veth, Vxlan


class LinkChange(NamedTuple):
    """What to set on a device: `mac`, `mtu`, `alias`, `master`, `addrgenmode`, `details`, `up`."""

    name: str
    fields: dict[str, Any]


def line(kind: str, verb: str, changed: Any) -> str:
    """One change as one line."""
    delete = verb.startswith("delete")
    match kind:
        case "link":
            return _link(verb, changed)
        case "address":
            word = "del" if delete else "replace"
            return f"ip addr {word} {changed.address} dev {changed.link}"
        case "neighbour":
            if delete:
                return f"ip neigh del {changed.address} dev {changed.link}"
            return (
                f"ip neigh replace {changed.address} lladdr {changed.mac} dev {changed.link} "
                "nud permanent"
            )
        case "fdb":
            word, state = ("del", "") if delete else ("replace", " permanent")
            return (
                f"bridge fdb {word} {changed.mac} dev {changed.link} dst {changed.remote} "
                f"self{state}"
            )
        case "nexthop":
            return f"ip nexthop del id {changed.id}" if delete else _nexthop(changed)
        case "route":
            return _route(changed, delete=delete, marked=verb != "delete unmarked")
        case "sysctl":
            return sysctl.line(changed)
        case _:
            if delete:
                return f"nft delete table {changed.family} {changed.name}"
            body = " ".join(changed.body.replace("\n", " ; ").split())
            return f"nft replace table {changed.family} {changed.name} {{ {_tidy(body)} }}"


def _tidy(body: str) -> str:
    """Drop separators that line ends left where nft wants none."""
    for clumsy, neat in (("{ ;", "{"), ("; ;", ";"), ("} ;", "}"), (" ; }", " }")):
        body = body.replace(clumsy, neat)
    return body.strip(" ;")


def _link(verb: str, changed: Link | LinkChange) -> str:
    if verb == "delete":
        return f"ip link del {changed.name}"
    if isinstance(changed, Link):
        words = ["ip link add", changed.name]
        if not isinstance(changed.details, Veth):
            words += ["address", changed.mac] if changed.mac else []
            words += ["mtu", str(changed.mtu)] if changed.mtu else []
        words += ["type", changed.kind, *_details(changed.details)]
        return " ".join(words)
    words = ["ip link set", changed.name]
    for name, value in changed.fields.items():
        match name:
            case "up":
                words.append("up" if value else "down")
            case "mac":
                words += ["address", value]
            case "details":
                words += ["type", "bridge", "vlan_filtering", str(int(value.vlan_filtering))]
            case _:
                words += [name, str(value)]
    return " ".join(words)


def _details(details: Vxlan | Bridge | Veth | None) -> list[str]:
    match details:
        case Vxlan():
            words = ["id", str(details.vni)]
            words += ["dev", details.underlay_link] if details.underlay_link else []
            words += ["local", details.local, "dstport", str(details.port)]
            return [*words, "learning" if details.learning else "nolearning"]
        case Bridge():
            return ["vlan_filtering", "1"] if details.vlan_filtering else []
        case Veth():
            return ["peer", "name", details.peer]
        case _:
            return []


def _nexthop(hop: Nexthop) -> str:
    onlink = " onlink" if hop.onlink else ""
    return (
        f"ip nexthop add id {hop.id} via {hop.via} dev {hop.link}{onlink} "
        f"proto {ownership.PROTOCOL}"
    )


def _route(route: Route, *, delete: bool, marked: bool) -> str:
    destination = "default" if route.destination in ("0.0.0.0/0", "::/0") else route.destination
    family = "ip -6" if route.destination == "::/0" else "ip"
    words = [family, "route", "del" if delete else "replace", destination]
    if not delete or not marked:
        words += ["via", route.via] if route.via else []
        words += ["dev", route.link]
        words += ["onlink"] if route.onlink and not delete else []
    words += ["metric", str(route.metric)] if route.metric else []
    words += ["table", str(route.table)] if route.table != MAIN_TABLE else []
    if not delete:
        words += ["src", route.source] if route.source else []
        words += ["mtu", str(route.mtu)] if route.mtu else []
        words += ["advmss", str(route.advmss)] if route.advmss else []
        words += (
            ["scope", "link" if route.scope == 253 else str(route.scope)] if route.scope else []
        )
    words += ["proto", str(ownership.PROTOCOL)] if marked else []
    return " ".join(words)

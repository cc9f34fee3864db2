"""nftables for single pods: masquerading (`ipMasq`) and source address checks (`macspoofchk`).

Two tables of our own, made when the first pod needs them. A pod is an element of sets, never
a rule, so the cost of a packet and of an ADD does not grow with the number of pods:

    inet flatmesh_cni     masq4, masq6: pods to masquerade; near4, near6: pairs of subnets that
                          talk to each other without
    bridge flatmesh_cni   guarded: host ends that are checked; allowed: host end and its MAC
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from cni import cidr
from cni.errors import NETWORK_FAILURE, CniError

TABLE = "flatmesh_cni"

_MASQUERADE = """
    set masq4 { type ipv4_addr; }
    set masq6 { type ipv6_addr; }
    set near4 { type ipv4_addr . ipv4_addr; flags interval; }
    set near6 { type ipv6_addr . ipv6_addr; flags interval; }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        ip saddr @masq4 ip daddr != 224.0.0.0/4 ip saddr . ip daddr != @near4 masquerade
        ip6 saddr @masq6 ip6 daddr != ff00::/8 ip6 saddr . ip6 daddr != @near6 masquerade
    }
"""
_SPOOFING = """
    set guarded { type ifname; }
    set allowed { type ifname . ether_addr; }
    chain prerouting {
        type filter hook prerouting priority -300; policy accept;
        iifname @guarded iifname . ether saddr != @allowed drop
    }
"""
_BODIES = {"inet": _MASQUERADE, "bridge": _SPOOFING}


def masquerade(addresses: Sequence[str]) -> None:
    """Masquerade what these pod addresses (`10.5.1.2/24`) send beyond their subnets."""
    _run("inet", _masquerade_commands("add", addresses))


def unmasquerade(addresses: Sequence[str]) -> None:
    """Undo `masquerade`; that it was not done is no error. The pairs of subnets stay."""
    _remove("inet", _masquerade_commands("delete", addresses, pairs=False))


def guard(host_name: str, mac: str) -> None:
    """Drop what comes in at this host end from another hardware address."""
    _run("bridge", _guard_commands("add", host_name, mac))


def unguard(host_name: str, mac: str) -> None:
    """Undo `guard`; that it was not done is no error."""
    _remove("bridge", _guard_commands("delete", host_name, mac))


def _masquerade_commands(
    verb: str, addresses: Sequence[str], *, pairs: bool = True
) -> list[tuple[str, str]]:
    """(verb and kind, the rest) of each element command."""
    commands = []
    for text in addresses:
        parsed = cidr.parse(text)
        where = f"{verb} element inet {TABLE}"
        commands.append((where, f"masq{parsed.family} {{ {parsed.address} }}"))
        if pairs:
            network = parsed.network
            commands.append((where, f"near{parsed.family} {{ {network} . {network} }}"))
    return commands


def _guard_commands(verb: str, host_name: str, mac: str) -> list[tuple[str, str]]:
    where = f"{verb} element bridge {TABLE}"
    return [
        (where, f'guarded {{ "{host_name}" }}'),
        (where, f'allowed {{ "{host_name}" . {mac} }}'),
    ]


def _text(commands: list[tuple[str, str]]) -> str:
    return "".join(f"{where} {what}\n" for where, what in commands)


def _nftables() -> ModuleType:
    """The module, loaded when the first pod needs it: most never do, and it takes 15 ms."""
    from hostnet.nft import tables as nftables  # noqa: PLC0415

    return nftables


def _run(family: str, commands: list[tuple[str, str]]) -> None:
    """Add elements; where the table is missing, make it first. Raises CniError."""
    nftables = _nftables()
    try:
        nftables.run(_text(commands))
    except nftables.NftMissingError as error:
        raise CniError(NETWORK_FAILURE, str(error)) from None
    except nftables.NftError:
        try:
            _make_table(family)
            nftables.run(_text(commands))
        except nftables.NftError as error:
            raise CniError(NETWORK_FAILURE, str(error)) from None


def _make_table(family: str) -> None:
    """All of it or nothing; one that another ADD made meanwhile is as good as ours."""
    nftables = _nftables()
    if (family, TABLE) in nftables.list_tables():
        return
    body = _BODIES[family]
    try:
        # `create` refuses where `add` would put our rules in a second time
        nftables.run(f"create table {family} {TABLE}\ntable {family} {TABLE} {{{body}}}\n")
    except nftables.NftError:
        if (family, TABLE) not in nftables.list_tables():
            raise


def _remove(family: str, commands: list[tuple[str, str]]) -> None:
    """Delete elements; those that are not there are added first, in the same transaction."""
    nftables = _nftables()
    added = [(where.replace("delete ", "add ", 1), what) for where, what in commands]
    try:
        nftables.run(_text(added) + _text(commands))
    except nftables.NftMissingError:
        return  # then nothing was ever added
    except nftables.NftError as error:
        if (family, TABLE) in nftables.list_tables():
            raise CniError(NETWORK_FAILURE, str(error)) from None

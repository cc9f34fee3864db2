"""nftables for single pods: masquerading (`ipMasq`) and the MAC spoof check (`macspoofchk`).

Two tables, made when the first pod needs them. A pod is an element of sets, never a rule, so
the cost of a packet and of an ADD does not grow with the number of pods:

    inet flatmesh_cni     masq4, masq6: addresses of pods to masquerade
                          near4, near6: pairs of subnets between which nothing is masqueraded
    bridge flatmesh_cni   guarded: host interfaces that are checked
                          allowed: host interface and the source MAC that may come from it

The names of tables and sets are those of every version, since pods outlive an upgrade.
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


def add_masquerade(addresses: Sequence[str]) -> None:
    """Masquerade what pods with these addresses (`10.5.1.2/24`) send beyond their subnets.

    Raises CniError (100), as all functions here.
    """
    _add("inet", _masquerade_commands("add", addresses))


def delete_masquerade(addresses: Sequence[str]) -> None:
    """Undo `add_masquerade`, if it was done. The pairs of subnets stay: other pods use them."""
    _delete("inet", _masquerade_commands("delete", addresses, pairs=False))


def add_mac_spoof_check(host_name: str, mac: str) -> None:
    """Drop what comes from this host interface with another source MAC than this one."""
    _add("bridge", _spoof_check_commands("add", host_name, mac))


def delete_mac_spoof_check(host_name: str, mac: str) -> None:
    """Undo `add_mac_spoof_check`, if it was done."""
    _delete("bridge", _spoof_check_commands("delete", host_name, mac))


def _masquerade_commands(
    verb: str, addresses: Sequence[str], *, pairs: bool = True
) -> list[tuple[str, str]]:
    """Each command in two parts: `add element FAMILY TABLE`, and set with element."""
    commands = []
    for text in addresses:
        parsed = cidr.parse_cidr(text)
        where = f"{verb} element inet {TABLE}"
        commands.append((where, f"masq{parsed.family} {{ {parsed.address} }}"))
        if pairs:
            network = parsed.network
            commands.append((where, f"near{parsed.family} {{ {network} . {network} }}"))
    return commands


def _spoof_check_commands(verb: str, host_name: str, mac: str) -> list[tuple[str, str]]:
    where = f"{verb} element bridge {TABLE}"
    return [
        (where, f'guarded {{ "{host_name}" }}'),
        (where, f'allowed {{ "{host_name}" . {mac} }}'),
    ]


def _text(commands: list[tuple[str, str]]) -> str:
    return "".join(f"{where} {what}\n" for where, what in commands)


def _nftables() -> ModuleType:
    """The module, imported when a pod needs it: that takes 15 ms, and most pods never do."""
    from hostnet.nft import tables as nftables  # noqa: PLC0415

    return nftables


def _add(family: str, commands: list[tuple[str, str]]) -> None:
    """Add elements; if that fails, make the table and try again."""
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
    """Make the table in one transaction; one that another ADD made meanwhile will do."""
    nftables = _nftables()
    if (family, TABLE) in nftables.list_tables():
        return
    body = _BODIES[family]
    try:
        # `create` fails for a table that exists, where `add` would add the rules a second time
        nftables.run(f"create table {family} {TABLE}\ntable {family} {TABLE} {{{body}}}\n")
    except nftables.NftError:
        if (family, TABLE) not in nftables.list_tables():
            raise


def _delete(family: str, commands: list[tuple[str, str]]) -> None:
    """Delete elements. They are added first, in the same transaction.

    Deleting an element that does not exist would fail the whole transaction.
    """
    nftables = _nftables()
    added = [(where.replace("delete ", "add ", 1), what) for where, what in commands]
    try:
        nftables.run(_text(added) + _text(commands))
    except nftables.NftMissingError:
        return  # without libnftables nothing was ever added
    except nftables.NftError as error:
        if (family, TABLE) in nftables.list_tables():
            raise CniError(NETWORK_FAILURE, str(error)) from None

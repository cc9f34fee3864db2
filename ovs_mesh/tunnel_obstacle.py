# SPDX-License-Identifier: Apache-2.0
"""What keeps a tunnel of the mesh from being opened: another program has what it needs.

- The UDP port, with Open vSwitch's kernel datapath: a program's socket, or a VXLAN or Geneve
  device. In user space the mesh takes the packets all the same, and the other program gets none.
- Key and remote address: another tunnel in Open vSwitch has the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from hostnet.kinds.link import read_links
from hostnet.netlink.socket import NetlinkSocket
from hostnet.tunnel_obstacle import udp_port_obstacle
from ovs_mesh.clients.ovsdb import Ovsdb
from ovs_mesh.rows import BridgeRow

DEVICE_PORTS = {"vxlan": 15, "geneve": 5}
"""IFLA_VXLAN_PORT, IFLA_GENEVE_PORT: two bytes, big end first."""
OWN_DEVICES = ("vxlan_sys_", "genev_sys_")
"""How the names begin of the devices that Open vSwitch itself makes for its tunnels."""


def port_obstacle(ports: Iterable[int], held: Collection[int] = ()) -> str | None:
    """Who else has one of these UDP ports; `held` are ports that ours have. Raises OSError."""
    for port in sorted({port for port in ports if port} - set(held)):
        with NetlinkSocket() as sock:
            links = read_links(sock)
        at_port = [
            link.name
            for link in links
            if link.kind in DEVICE_PORTS
            and link.data.get(DEVICE_PORTS[link.kind], b"")[:2] == port.to_bytes(2, "big")
        ]
        others = [name for name in at_port if not name.startswith(OWN_DEVICES)]
        if others:
            return f"UDP port {port} is in use by device {others[0]}"
        if not at_port and (why := udp_port_obstacle(port)) is not None:
            return why
    return None


def unopened_tunnel(
    database: Ovsdb, rows: Iterable[BridgeRow], ofports: Mapping[str, int], ports: Iterable[int]
) -> str | None:
    """Which tunnel Open vSwitch could not open, and why. Raises OSError."""
    wanted = [port for row in rows for port in row.ports if port.type]
    missing = [port for port in wanted if port.name not in ofports]
    if not missing:
        return None
    name = missing[0].name
    twin = database.twin(missing[0])
    if twin is not None:
        why = f"port {twin} has the same key and remote address: remove it, or choose another Key"
    else:
        errors = [text for row in rows for text in database.errors(row.name).items()]
        said = dict(errors).get(name, "Open vSwitch says no reason")
        why = port_obstacle(ports) or said
    more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    return f"tunnel {name}{more} can't be opened: {why}"

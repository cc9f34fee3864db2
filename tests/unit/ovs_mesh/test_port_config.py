# SPDX-License-Identifier: Apache-2.0
"""What OpenFlow forbids ports, as ovs-ofctl prints it."""

from __future__ import annotations

from ovs_mesh.clients.port_config import read_changes

TEXT = """OFPST_PORT_DESC reply (xid=0x2):
 1(obr0-kbr0): addr:0e:b3:c5:66:21:5c
     config:     NO_FLOOD NO_FWD
     state:      0
     current:    10GB-FD COPPER
     speed: 10000 Mbps now, 0 Mbps max
 2(mesh-gre): addr:0e:b3:c5:66:21:5d
     config:     0
     state:      0
 3(foreign): addr:0e:b3:c5:66:21:5e
     config:     NO_RECV
     state:      0
 LOCAL(obr0): addr:0e:b3:c5:66:21:5f
     config:     PORT_DOWN NO_PACKET_IN
     state:      LINK_DOWN
"""


def test_flags_of_our_ports_and_the_bridges_own_are_taken_back() -> None:
    lines = [change.line("obr0") for change in read_changes(TEXT, {"obr0-kbr0", "mesh-gre"})]
    assert lines == [
        "ovs-ofctl mod-port obr0 obr0-kbr0 flood",
        "ovs-ofctl mod-port obr0 obr0-kbr0 forward",
        "ovs-ofctl mod-port obr0 obr0 packet-in",
    ]

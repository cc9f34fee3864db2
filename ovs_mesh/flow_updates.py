# SPDX-License-Identifier: Apache-2.0
"""What obr0's OpenFlow connection tells of changed flows and ports, read and foretold.

The connection asks for a flow monitor (NXST_FLOW_MONITOR, a Nicira extension) and gets an
update for every flow that is added, changed or deleted, whoever did it, and a port status
message for every port that comes or goes, or is forbidden something. `expected_updates` says which
updates a change of ours will cause, so that `ovs_mesh.watch` can tell them from the changes of
other programs.

Sources: openflow/nicira-ext.h, openflow/openflow-1.0.h of Open vSwitch.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ovs_mesh.clients.openflow import FlowChange

CONNECT_TIMEOUT = 2.0  # seconds for the switch to take our requests
HEADER = struct.Struct(">BBHI")  # struct ofp_header: version, type, length, xid
VERSION = 0x01  # OpenFlow 1.0, where the flow monitor appeared first
HELLO, ECHO_REQUEST, ECHO_REPLY, SET_CONFIG, STATS_REQUEST = 0, 2, 3, 9, 16
VENDOR_MESSAGE, PORT_STATUS, STATS_REPLY = 4, 12, 17
VENDOR, NICIRA, FLOW_MONITOR = 0xFFFF, 0x00002320, 2
ADD, DELETE, MODIFY, ACTIONS = 1 << 1, 1 << 2, 1 << 3, 1 << 4  # NXFMF_*
ADDED, DELETED, MODIFIED = range(3)  # enum nx_flow_update_event
PORT_ADDED, PORT_GONE, PORT_MODIFIED = range(3)  # enum ofp_port_reason
UPDATE = struct.Struct(">HHHHHHHB")  # struct nx_flow_update_full, up to table_id
# bytes from a message's start
UPDATES_AT, REASON_AT, PORT_NUMBER_AT, PORT_NAME_AT, PORT_CONFIG_AT = 24, 8, 16, 24, 40
LOCAL, PORT_DOWN = 0xFFFE, 1  # OFPP_LOCAL, OFPPC_PORT_DOWN
ANY_PORT, ANY_TABLE = 0xFFFF, 0xFF

FlowUpdate = tuple[object, ...]
"""One update: (event, table, priority) of a flow, or (reason, name) of a port."""


def expected_updates(
    flows: Iterable[FlowChange], added_ports: Iterable[str], deleted_ports: Iterable[str]
) -> Counter[FlowUpdate]:
    """The updates that a bundle of flow changes, and ports that come and go, will cause."""
    updates: Counter[FlowUpdate] = Counter((PORT_ADDED, name) for name in added_ports)
    updates.update((PORT_GONE, name) for name in deleted_ports)
    for change in flows:
        event = DELETED if change.verb != "add" else MODIFIED if change.replaces else ADDED
        updates[event, *change.place] += 1
    return updates


def connect(path: Path) -> socket.socket:
    """Connect to a bridge's management socket and ask for updates. Raises OSError."""
    switch = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        switch.settimeout(CONNECT_TIMEOUT)
        switch.connect(str(path))
        switch.sendall(HEADER.pack(VERSION, HELLO, HEADER.size, 1))
        # without a miss_send_len above 0 a management connection gets no port status messages
        switch.sendall(HEADER.pack(VERSION, SET_CONFIG, HEADER.size + 4, 3) + b"\0\0\0\x80")
        request = struct.pack(
            ">IHHHBxxxxx", 1, ADD | DELETE | MODIFY | ACTIONS, ANY_PORT, 0, ANY_TABLE
        )
        body = struct.pack(">HHIII", VENDOR, 0, NICIRA, FLOW_MONITOR, 0) + request
        switch.sendall(HEADER.pack(VERSION, STATS_REQUEST, HEADER.size + len(body), 2) + body)
    except BaseException:
        switch.close()
        raise
    return switch


def read_messages(data: bytes, switch: socket.socket) -> tuple[bytes, Counter[FlowUpdate]]:
    """Read whole messages, and answer echo requests; returns the rest and the updates.

    Raises OSError when the connection breaks, or `data` is not OpenFlow.
    """
    updates: Counter[FlowUpdate] = Counter()
    while len(data) >= HEADER.size:
        _, kind, length, xid = HEADER.unpack_from(data)
        if length < HEADER.size:
            raise OSError("not OpenFlow")
        if len(data) < length:
            break
        message, data = data[:length], data[length:]
        if kind == ECHO_REQUEST:
            payload = message[HEADER.size :]
            switch.sendall(HEADER.pack(VERSION, ECHO_REPLY, length, xid) + payload)
        elif kind == PORT_STATUS and (message[REASON_AT] != PORT_MODIFIED or _forbids(message)):
            name = message[PORT_NAME_AT : PORT_NAME_AT + 16].rstrip(b"\0").decode(errors="replace")
            updates[message[REASON_AT], name] += 1
        elif kind == STATS_REPLY:
            updates.update(_flow_updates(message[UPDATES_AT:]))
        elif kind == VENDOR_MESSAGE:
            # the switch paused or resumed the monitor: it had more updates than we took, and
            # some are lost. Nothing expects this one, so the flows are compared anew
            updates["paused or resumed",] += 1
    return data, updates


def _forbids(message: bytes) -> bool:
    """Whether the port may not do something (`ovs_mesh.clients.port_config`)."""
    (number,) = struct.unpack_from(">H", message, PORT_NUMBER_AT)
    (config,) = struct.unpack_from(">I", message, PORT_CONFIG_AT)
    return bool(config & ~PORT_DOWN if number == LOCAL else config)


def _flow_updates(body: bytes) -> Iterator[FlowUpdate]:
    """The updates of a flow monitor's reply; the reply to the request itself has none."""
    while len(body) >= UPDATE.size:
        length, event, _, priority, _, _, _, table = UPDATE.unpack_from(body)
        if length < UPDATE.size:
            raise OSError("not a flow monitor's update")
        yield event, table, priority
        body = body[length:]

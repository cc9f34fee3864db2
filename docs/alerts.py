# SPDX-License-Identifier: Apache-2.0
"""What of the metrics to alert on; docs/generate.py puts it behind the table of all."""

from __future__ import annotations

ALERTS = (
    (
        "`up == 0` of the daemon's target",
        "5 min",
        "the daemon does not run, or its port can't be reached: pods run on, new ones are slower",
    ),
    (
        "`flatmesh_controller_failing == 1`",
        "5 min",
        "a part of the host is not as it should be; the label says which, `/readyz` why",
    ),
    (
        "`flatmesh_config_refused == 1`",
        "5 min",
        "this host goes on with an older cluster config than the others",
    ),
    (
        "`flatmesh_refused_leases > 0`",
        "5 min",
        "a host claims what is another's: its pods are not reached from here",
    ),
    (
        "`flatmesh_unusable_peers > 0`",
        "5 min",
        "a lease of another backend, or without an address that can be used here",
    ),
    (
        "`increase(flatmesh_errors_total[15m]) > 0`",
        "15 min",
        "the kernel refuses a change again and again; the log names it",
    ),
    (
        "`increase(flatmesh_changes_total[15m]) > 0` while leases and pods stay as they are",
        "1 h",
        "another program and the daemon undo each other's changes; the log names the objects",
    ),
    (
        '`rate(flatmesh_dropped_packets_total{reason="unencrypted"}[5m]) > 0`',
        "5 min",
        "packets of pods would have left in clear: the tunnel is missing or a route leads past it",
    ),
    (
        "`rate(flatmesh_dropped_packets_total[5m]) > 0`, other reasons",
        "15 min",
        "forged packets, or an underlay with NAT: see [upgrade](../upgrade.md), Tunnels",
    ),
    (
        "`rate(flatmesh_udp_dropped_packets_total[5m]) > 0`",
        "15 min",
        "the reasons are in [udp](../udp.md), Counters; `ttl` and `multicast` are normal",
    ),
)
"""Expression for Prometheus, how long it should hold, and what it means."""

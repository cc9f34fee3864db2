# SPDX-License-Identifier: Apache-2.0
"""Default paths and the names of all files that more than one part of flatmesh reads or writes.

Strings, not `Path` objects: the CNI executable's slow path imports this module, and `pathlib`
would cost it two milliseconds before it needs a path at all.
"""

from __future__ import annotations

RUN_DIR = "/run/flatmesh"
"""Cleared by a reboot. Flag `--run-dir`, variable FLATMESH_RUN_DIR."""
STATE_DIR = "/var/lib/flatmesh"
"""Survives a reboot. Flag `--state-dir`, variable FLATMESH_STATE_DIR."""
SUBNET_FILE = "/run/flannel/subnet.env"
"""flanneld's path (flag `--subnet-file`), so that the flannel CNI plugin finds it."""
LAB_DIR = "/var/lib/flatmesh-lab"
"""One directory for each lab on this machine."""
HOST_LOCAL_DIR = "/var/lib/cni/networks"
"""Where the reference's host-local plugin keeps the addresses it gives: ours gives none of them."""
DEFAULTS_FILE = "/etc/default/flatmeshd"
"""Environment of the daemon's unit; commands read it where no daemon answers."""
CNI_BIN_DIR = "/opt/cni/bin"
"""Container runtimes look for CNI executables here (CNI SPEC, libcni's default)."""
DOCKER_PLUGIN = "/run/docker/plugins/flatmesh.sock"
"""Where dockerd looks for a driver that is called flatmesh."""
RESOLV_CONF = "/etc/resolv.conf"
"""The host's resolvers. Flag `--resolv-conf`, variable FLATMESH_RESOLV_CONF."""
NETNS_DIR = "/run/netns"
"""Named network namespaces (ip-netns(8))."""

# In the run directory:
CNI_SOCKET = "cni.sock"
"""The daemon answers CNI calls here."""
STATUS_SOCKET = "status.sock"
"""The daemon tells root here how it is, and its settings."""
READY_FILE = "ready"
"""Holds the daemon's pid while pods can be served."""
ATTACH_FILE = "attach.json"
"""How pods are attached, where a backend attaches them to something other than kbr0."""

DELETED_DIR = "deleted"
"""Deletions of pods that the address store could not take yet."""
UNANSWERED_DIR = "unanswered"
"""Results of ADDs that the runtime does not have yet."""
CLOSED_NETWORKS = "encrypted-networks"
"""Networks whose packets leave this host encrypted or not at all, with those of earlier configs."""

# In the state directory:
ADDRESS_STORE = "addresses.sqlite"
"""Which pod holds which address."""
LEASE_FILE = "lease.json"
"""Which lease was ours in the last run."""
MACHINE_FILE = "machine.json"
"""Which machine the other files were made on."""
DOCKER_FILE = "docker.json"
"""Which part of the lease Docker gives addresses from, on its default bridge."""
CONFIG_FILE = "config.json"
"""The cluster config that was in force in the last run."""

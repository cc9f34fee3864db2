# SPDX-License-Identifier: Apache-2.0
"""What is stored or named on a host stays what earlier versions wrote and looked for.

During an upgrade, pods that the version before attached are detached by this one, and an
executable of the one may run beside a daemon of the other.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from cni.attachment.lock import hold_lock
from cni.attachment.store import AttachmentStore
from cni.config.call import AttachmentKey, CniCall
from cni.config.request import CniRequest, parse_request
from cni.delegate.remembered import delete_request, to_remember
from cni.errors import CniError
from cni.flannel_alias.state_files import own_state_files, read_state, state_path, write_state
from cni.host import PluginHost
from cni.pod.attach_mode import AttachMode
from cni.pod.naming import attachment_of, host_interface_alias, host_interface_name

KEY = AttachmentKey("pods", "c1", "eth0")
VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "CNI_ARGS": "IgnoreUnknown=1",
    "PATH": "/usr/bin",
    "HOME": "/root",
}


def request(**config: object) -> CniRequest:
    body = {"cniVersion": "1.0.0", "name": "pods", "type": "flatmesh", **config}
    return parse_request(CniCall("flatmesh", VARIABLES, json.dumps(body).encode()))


@pytest.fixture
def host(tmp_path: Path) -> PluginHost:
    return PluginHost(tmp_path / "run", tmp_path / "state", tmp_path / "subnet.env")


def test_the_host_interface_has_the_name_and_alias_of_every_version() -> None:
    assert host_interface_name(KEY) == "veth39a7199053c"
    assert host_interface_alias(KEY) == "flatmesh-pod pods c1 eth0"
    assert attachment_of("flatmesh-pod pods c1 eth0", "veth39a7199053c") == KEY
    assert attachment_of("flatmesh-pod pods c1 eth0", "veth00000000000") is None
    assert attachment_of("flatmesh-pod bridge", "veth39a7199053c") is None
    assert attachment_of("", "veth39a7199053c") is None


def test_an_attachment_is_locked_by_the_same_file_in_every_version(host: PluginHost) -> None:
    with hold_lock(host, "flatmesh", KEY):
        fd = os.open(host.run_dir / "locks" / "flatmesh.177", os.O_RDWR)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)


def test_a_lock_that_another_process_holds_is_waited_for(host: PluginHost) -> None:
    with (
        hold_lock(host, "flatmesh", KEY),
        pytest.raises(CniError, match="another call for container c1") as caught,
        hold_lock(host, "flatmesh", KEY, timeout=0.05),
    ):
        pass
    assert caught.value.code == 11


def test_the_metadata_of_an_attachment_keeps_its_keys(host: PluginHost) -> None:
    """The record of a pod that an earlier version attached, as `removal.detach` reads it."""
    metadata = {
        "plugin": "flatmesh",
        "masquerade": ["10.5.72.2/24"],
        "guard": ["veth1", "0a:58:0a:05:48:02"],
        "delegate": {"type": "host-local", "conf": {"name": "pods"}, "environment": {}},
    }
    store = AttachmentStore(host)
    store.begin("/run/netns/x", KEY, None, metadata)
    store.finish(KEY, "veth1", metadata)
    record = store.find(KEY)
    host.close()
    assert record is not None
    assert (record.plugin, record.ready, record.host_ifname) == ("flatmesh", True, "veth1")
    assert record.metadata == metadata


def test_what_is_kept_of_a_delegate_has_the_same_form() -> None:
    ipam = {"type": "host-local", "ranges": []}
    kept = to_remember("host-local", request(ipam=ipam, prevResult={"cniVersion": "1.0.0"}))
    assert kept == {
        "type": "host-local",
        "conf": {"cniVersion": "1.0.0", "name": "pods", "type": "flatmesh", "ipam": ipam},
        "environment": {
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": "IgnoreUnknown=1",
            "PATH": "/usr/bin",
        },
    }
    deletion = delete_request("host-local", kept["conf"], kept["environment"], KEY)
    assert (deletion.command, deletion.attachment, deletion.netns) == ("DEL", KEY, "")
    assert deletion.cni_path == ("/opt/cni/bin",)


def test_flannel_s_state_file_has_the_same_form(tmp_path: Path) -> None:
    config = {"name": "pods", "type": "bridge"}
    one = request(dataDir=str(tmp_path))
    path = state_path(one, KEY)
    write_state(path, config, KEY)
    assert path == tmp_path / "c1"
    stored = json.loads(path.read_text())
    assert stored == {**config, "flatmesh.attachment": ["pods", "c1", "eth0"]}
    assert read_state(path) == config
    assert own_state_files(one) == [(path, KEY)]
    assert state_path(one, KEY._replace(ifname="eth1")) == tmp_path / "c1.pods.eth1"


def test_the_attach_mode_of_an_earlier_daemon_is_read(tmp_path: Path) -> None:
    assert AttachMode.read(tmp_path).to_bridge
    (tmp_path / "attach.json").write_text('{"bridge": null, "mode": "ovs"}')
    assert not AttachMode.read(tmp_path).to_bridge
    (tmp_path / "attach.json").write_text('{"mode": "other"}')
    with pytest.raises(CniError, match=r"attach\.json"):
        AttachMode.read(tmp_path)

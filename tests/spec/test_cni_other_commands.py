# SPDX-License-Identifier: Apache-2.0
"""GC, STATUS and VERSION, and a person who calls a plugin by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cni import versions
from tests.spec.cni_host import Answer, CniHost, MakeConf, addresses


def gc(host: CniHost, config: dict[str, Any], *valid: tuple[str, str]) -> Answer:
    config = {**config, "cniVersion": "1.1.0"}
    config["cni.dev/valid-attachments"] = [{"containerID": c, "ifname": i} for c, i in valid]
    nothing = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"))
    return host.call("GC", config, environment=nothing)


def test_gc_keeps_the_valid_and_other_networks(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    blue, green = conf(name="blue"), conf(name="green")
    kept, gone, others = host.pod(), host.pod(), host.pod()
    host.call("ADD", blue, f"{container}-kept", kept).result()
    host.call("ADD", blue, f"{container}-gone", gone).result()
    host.call("ADD", green, f"{container}-others", others).result()
    assert gc(host, blue, (f"{container}-kept", "eth0")).result() is None
    assert {r[1] for r in host.records()} == {f"{container}-kept", f"{container}-others"}
    assert len(addresses(host, kept)) == len(addresses(host, others)) == 2
    assert [link["ifname"] for link in host.ip("link", "show", pod=gone)] == ["lo"]
    gc(host, blue).result()  # an empty list: everything of this network, and of no other
    assert {r[1] for r in host.records()} == {f"{container}-others"}
    gc(host, green).result()
    assert not host.records()
    assert not host.host_interfaces()


def test_gc_removes_a_veth_pair_without_a_record(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    from ipam.address_store import AddressStore, Attachment

    pod = host.pod()
    host.call("ADD", conf(), container, pod).result()
    with AddressStore(host.directory / "state" / "addresses.sqlite") as store:
        store.release(Attachment("pods", container, "eth0"))
    gc(host, conf(name="another")).result()
    assert host.host_interfaces()
    gc(host, conf()).result()
    assert not host.host_interfaces()


def test_status_tells_whether_a_pod_could_be_added(host: CniHost, conf: MakeConf) -> None:
    nothing = dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"))
    config = conf(cniVersion="1.1.0")
    assert host.call("STATUS", config, environment=nothing).stdout == b""
    (host.directory / "subnet.env").unlink()
    assert "no lease" in host.call("STATUS", config, environment=nothing).refused(50)
    assert "no lease" in host.call("ADD", config, "c-x", host.pod()).refused(50)
    (host.directory / "subnet.env").write_text("FLANNEL_SUBNET=rubbish\n")
    assert "FLANNEL_SUBNET" in host.call("STATUS", config, environment=nothing).refused(50)


def test_an_exhausted_pool_is_reported_by_add_and_by_status(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config = conf(
        cniVersion="1.1.0",
        name="small",
        bridge="brsmall",
        ipam={"type": "flatmesh-ipam", "ranges": [[{"subnet": "10.66.0.0/30"}]]},
    )
    pod = host.pod()
    host.call("ADD", config, f"{container}-1", pod).result()
    answer = host.call("ADD", config, f"{container}-2", host.pod())
    assert "no free address" in answer.refused(101)
    assert "no free address" in host.call("STATUS", config).refused(50)
    assert len([r for r in host.records() if r[0] == "small"]) == 1
    host.call("DEL", config, f"{container}-1", pod).result()
    host.call("STATUS", config).result()


@pytest.mark.parametrize("plugin", ["flatmesh", "flatmesh-ipam", "flannel"])
@pytest.mark.parametrize(
    "stdin", [b"", b"{}", b'{"cniVersion":"0.4.0"}', b'{"cniVersion":"9.9.9"}']
)
def test_version_echoes_and_lists(host: CniHost, plugin: str, stdin: bytes) -> None:
    answer = host.call(
        "VERSION",
        plugin=plugin,
        stdin=stdin,
        environment=dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH")),
    )
    body = answer.result()
    stated = json.loads(stdin or b"{}").get("cniVersion", versions.NEWEST)
    assert body == {"cniVersion": stated, "supportedVersions": list(versions.SUPPORTED)}


def test_a_person_who_calls_the_plugin_is_told_what_it_is(host: CniHost) -> None:
    answer = host.call("ADD", stdin=b"", environment={"CNI_COMMAND": None})
    assert "container runtime" in answer.refused(4)

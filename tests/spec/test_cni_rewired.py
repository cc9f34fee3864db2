# SPDX-License-Identifier: Apache-2.0
"""Another program takes away what connects a pod: the daemon's functions put it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from cni.attachment.lock import hold_lock
from cni.attachment.store import AttachmentStore
from cni.config.call import AttachmentKey
from cni.host import PluginHost, host_from_environment
from cni.pod.naming import PLUGIN
from cni.wiring.firewall import restore
from cni.wiring.mend import Rewired, rewire
from hostnet.netns import run_in
from tests.spec.cni_host import CniHost, MakeConf

Answer = TypeVar("Answer")


def inside(host: CniHost, work: Callable[[PluginHost], Answer]) -> Answer:
    """Call a function of the daemon in the host's namespace."""
    plugins = host_from_environment(host.variables)
    try:
        return run_in(f"/run/netns/{host.name}", lambda: work(plugins))
    finally:
        plugins.close()


def mended(host: CniHost) -> Rewired:
    return inside(host, lambda plugins: rewire(AttachmentStore(plugins).records()))


def ruleset(host: CniHost) -> list[str]:
    """The words of the pods' tables, in whatever order the kernel has elements."""
    tables = host.run("nft", "-s", "list", "ruleset").stdout.split("table ")
    ours = [text for text in tables if text.split("{")[0].strip().endswith(" flatmesh_cni")]
    return sorted(word for text in ours for word in text.replace(",", " ").split())


def test_a_flushed_ruleset_is_put_back_and_goes_with_the_pod(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config = conf(ipMasq=True, macspoofchk=True)
    pod = host.pod()
    host.call("ADD", config, container, pod).result()
    before = ruleset(host)
    assert "masquerade" in before
    for command in (
        "flush ruleset",
        "flush set inet flatmesh_cni masq4",
        "flush chain inet flatmesh_cni postrouting",
        "flush chain bridge flatmesh_cni prerouting",
        "insert rule bridge flatmesh_cni prerouting accept",
    ):
        assert host.run("nft", *command.split()).returncode == 0
        lines, failures = inside(host, restore)
        assert (bool(lines), failures) == (True, [])
        assert ruleset(host) == before
    assert inside(host, restore) == ([], [])
    host.run("nft", "flush", "ruleset")

    def while_a_call_is_at_work(plugins: PluginHost) -> tuple[list[str], list[str]]:
        with hold_lock(plugins, PLUGIN, AttachmentKey(config["name"], container, "eth0")):
            return restore(plugins)

    _, failures = inside(host, while_a_call_is_at_work)
    assert all("still at work" in failure for failure in failures)
    assert ruleset(host) == []
    host.call("DEL", config, container, pod).result()
    assert inside(host, restore) == ([], [])


def test_a_bridge_that_was_deleted_is_made_again_with_its_ports(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config: dict[str, Any] = conf(hairpinMode=True)
    pod = host.pod()
    host.call("ADD", config, container, pod).result()
    (before,) = host.ip("-d", "link", "show", "kbr0")
    host.run("ip", "link", "del", "kbr0")
    done = mended(host)
    assert done.failures == []
    assert len(done.lines) == 2
    (after,) = host.ip("-d", "link", "show", "kbr0")
    for key in ("address", "mtu", "ifalias", "flags"):
        assert after[key] == before[key]
    assert host.run("ping", "-c1", "-W5", "10.5.72.1", pod=pod).returncode == 0
    assert mended(host).lines == []
    host.call("DEL", config, container, pod).result()
    assert mended(host).lines == []


@pytest.mark.kernel("bridge VLANs")
@pytest.mark.parametrize("keys", [{"vlan": 100}, {"vlanTrunk": [{"minID": 20, "maxID": 22}]}])
def test_vlans_are_put_back(
    own_host: CniHost, container: str, conf: MakeConf, keys: dict[str, Any]
) -> None:
    host, config = own_host, conf(bridge="br-vlan", preserveDefaultVlan=False, **keys)
    host.call("ADD", config, container, host.pod()).result()
    (name,) = host.host_interfaces()

    def shown() -> list[str]:
        found = host.run("bridge", "-d", "vlan", "show").stdout
        (bridge,) = host.ip("-d", "link", "show", "br-vlan")
        return [found, bridge["linkinfo"]["info_data"]["vlan_filtering"]]

    before = shown()
    vid = "100" if "vlan" in keys else "21"
    for command in (
        f"bridge vlan del dev {name} vid {vid}",
        f"bridge vlan add dev {name} vid 7",
        f"bridge vlan add dev {name} vid 9 pvid untagged",
        f"bridge vlan add dev {name} vid {vid} untagged",
        "ip link set br-vlan type bridge vlan_filtering 0",
        *(["bridge vlan del dev br-vlan vid 100 self"] if "vlan" in keys else []),
    ):
        assert host.run(*command.split()).returncode == 0
        assert shown() != before or "untagged" in command
        done = mended(host)
        assert done.failures == []
        assert shown() == before, (command, done.lines)
    assert mended(host).lines == []

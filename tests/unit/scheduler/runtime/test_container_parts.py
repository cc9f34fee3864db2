# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process import accounts, capabilities
from scheduler.runtime.process.cgroup import Cgroups, settings
from scheduler.runtime.process.interfaces import parse
from scheduler.runtime.process.messages import container_from_json, container_to_json
from scheduler.runtime.process.root import inside
from scheduler.runtime.process.supervised import signal_number
from scheduler.runtime.protocol import ContainerConfig, File, InterfaceStats, Limits, Mount


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n")
    (tmp_path / "group").write_text("root:x:0:\nweb:x:33:\nlog:x:44:web,other\nbad line\n")
    return tmp_path


@pytest.mark.parametrize(
    ("user", "account"),
    [
        ("", accounts.Account(0, 0, (0,), "/root")),
        ("web", accounts.Account(33, 33, (33, 44), "/srv")),
        ("33", accounts.Account(33, 33, (33, 44), "/srv")),
        ("web:log", accounts.Account(33, 44, (44,), "/srv")),
        ("1000:1001", accounts.Account(1000, 1001, (1001,), "/")),
    ],
)
def test_users_are_looked_up_in_the_image(etc: Path, user: str, account: accounts.Account) -> None:
    assert accounts.lookup(user, (), etc) == account


@pytest.mark.parametrize("user", ["nobody", "web:nogroup"])
def test_an_unknown_user_is_an_error(etc: Path, user: str) -> None:
    with pytest.raises(RuntimeCallError, match="is not in the image's"):
        accounts.lookup(user, (), etc)


def test_capabilities_are_changed_by_name() -> None:
    default = capabilities.mask((), ())
    assert default >> capabilities.NAMES.index("SYS_ADMIN") & 1 == 0
    assert default >> capabilities.NAMES.index("MKNOD") & 1 == 0
    assert capabilities.mask(("CAP_NET_ADMIN",), ("ALL",)) == 1 << 12
    assert capabilities.mask(("all",), ()) == (1 << len(capabilities.NAMES)) - 1
    with pytest.raises(RuntimeCallError, match="no such capability"):
        capabilities.mask(("FLY",), ())


def test_limits_become_files_of_both_cgroup_versions() -> None:
    limits = Limits(nano_cpus=500_000_000, memory=1 << 20, pids=10)
    assert dict(settings("v2", limits))["cpu.max"] == "50000 100000"
    assert settings("memory", limits) == [("memory.limit_in_bytes", "1048576")]
    assert settings("cpu", limits)[1] == ("cpu.cfs_quota_us", "50000")
    assert settings("v2", Limits()) == []


def test_a_host_without_writable_cgroups_says_so(tmp_path: Path) -> None:
    found = Cgroups.found(tmp_path)
    assert "memory, cpu, pids" in found.missing()
    assert found.create("a/b", Limits(memory=1)) == []
    assert found.stats("a/b", "main").memory_bytes == 0
    assert found.remove("a/b")


def test_a_config_survives_its_way_to_the_supervisor() -> None:
    config = ContainerConfig(
        "main",
        "host",
        command=("sleep", "1"),
        mounts=(Mount("tmpfs", "/x", size=5),),
        files=(File("/run/secrets/a", b"\0\xff"),),
        limits=Limits(memory=4),
    )
    assert container_from_json(json.loads(json.dumps(container_to_json(config)))) == config


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/a/b", "a/b"),
        ("/../../etc/passwd", "etc/passwd"),
        ("/out/passwd", "etc/passwd"),
        ("/up/x", "x"),
    ],
)
def test_no_link_of_an_image_leads_out_of_it(tmp_path: Path, target: str, found: str) -> None:
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "up").symlink_to("../../../..")
    assert inside(tmp_path, target) == tmp_path / found


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(RuntimeCallError, match="too many"):
        inside(tmp_path, "/a/x")


def test_signals_have_names_and_numbers() -> None:
    assert [signal_number(x) for x in ("SIGTERM", "hup", "9")] == [15, 1, 9]
    with pytest.raises(RuntimeCallError, match="no signal"):
        signal_number("SIGFLY")


def test_the_loopback_interface_is_not_counted() -> None:
    text = (
        "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        "  eth0: 100 2 0 4 5 6 7 8 900 10 0 12 13 14 15 16\n"
    )
    assert parse(text) == (InterfaceStats("eth0", 100, 2, 4, 900, 10, 12),)

# SPDX-License-Identifier: Apache-2.0
"""Commands on a configured host need no flags; `lease list` and `release` on a real cluster.

One lab serves all tests of this module. A test that stops a daemon starts it again.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab import processes
from lab.cluster import Lab
from tests.scenario.conftest import running_lab
from tests.scenario.free_subnets import free_subnets

OWN_DEFAULTS = 'mount -t tmpfs none /etc/default && cp "$0" /etc/default/flatmeshd && exec "$@"'


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(
        request.config, tmp_path_factory.mktemp("lab"), hosts=2, pods_per_host=1
    ) as one:
        yield one


def on_host(
    lab: Lab, number: int, *arguments: str, defaults: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run flatmesh on a host without FLANNELD_* variables.

    With `defaults` the host has /etc/default/flatmeshd with that text, and no FLATMESH_* variable.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLANNELD", "FLATM"))}
    argv = [lab.spec.python, "-I", "-m", "cli.main", *arguments]
    if defaults is None:
        environment |= lab.environment(number)
    else:
        file = lab.directory / "defaults"
        file.write_text(defaults)
        argv = ["unshare", "-m", "sh", "-c", OWN_DEFAULTS, str(file), *argv]
    return subprocess.run(
        [*processes.enter(lab.names.host(number)), *argv],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def leases(lab: Lab, number: int = 1, **how: Any) -> list[dict[str, Any]]:
    done = on_host(lab, number, "lease", "list", "-o", "json", **how)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_the_daemon_says_where_etcd_is(lab: Lab) -> None:
    found = leases(lab)
    assert {one["public_ip"] for one in found} == {"192.168.64.11", "192.168.64.12"}
    assert all(0 < one["expires_in"] <= 86400 for one in found)
    assert json.loads(on_host(lab, 2, "config", "show").stdout)["Backend"]["Type"] == "vxlan"


def test_doctor_tells_programs_what_it_tells_people(lab: Lab) -> None:
    shown = on_host(lab, 1, "doctor")
    listed = on_host(lab, 1, "doctor", "-o", "json")
    assert (shown.returncode, listed.returncode) == (0, 0), shown.stdout
    findings = {one["what"]: one for one in json.loads(listed.stdout)}
    assert findings["lease"]["good"]
    assert f"ok   lease: {findings['lease']['text']}" in shown.stdout.splitlines()
    assert len(shown.stdout.splitlines()) == len(json.loads(listed.stdout))


def test_the_file_does_where_no_daemon_runs(lab: Lab) -> None:
    lab.daemon(1).stop()
    try:
        quoted = f"# a comment\nFLANNELD_ETCD_ENDPOINTS='{lab.endpoint}'\n"
        assert len(leases(lab, defaults=quoted)) == 2
        moved = f"{quoted}FLATMESH_RUN_DIR={lab.host_dir(1) / 'run'}\n"
        assert len(leases(lab, defaults=moved)) == 2
        # of another host: the file is not this one's
        other = on_host(lab, 1, "lease", "list", defaults=quoted, FLATMESH_RUN_DIR="/nowhere")
        assert other.returncode == 1
        assert "127.0.0.1:4001" in other.stderr
    finally:
        lab.start_daemon(1)
        lab.daemon(1).wait_ready()


def test_the_file_says_where_the_socket_is(lab: Lab) -> None:
    assert len(leases(lab, defaults=f"FLATMESH_RUN_DIR={lab.host_dir(1) / 'run'}\n")) == 2


def test_variables_win_over_the_daemon_and_flags_over_variables(lab: Lab) -> None:
    wrong = "http://127.0.0.1:1"
    refused = on_host(lab, 1, "lease", "list", FLANNELD_ETCD_ENDPOINTS=wrong)
    assert refused.returncode == 1
    assert wrong in refused.stderr
    done = on_host(
        *(lab, 1, "lease", "list", "--etcd-endpoints", lab.endpoint),
        FLANNELD_ETCD_ENDPOINTS=wrong,
    )
    assert done.returncode == 0, done.stderr
    prefix = on_host(lab, 1, "config", "show", FLANNELD_ETCD_PREFIX="/other")
    assert "no cluster config at /other/config" in prefix.stderr


def test_lab_exec_is_enough(lab: Lab) -> None:
    for where, stopped in (("h1", False), ("net", False), ("h1", True)):
        if stopped:
            lab.daemon(1).stop()
        try:
            done = subprocess.run(
                [
                    *(lab.spec.python, "-I", "-m", "cli.main", "lab", "exec"),
                    *("--dir", str(lab.directory.parent), "--name", lab.spec.name, where),
                    *(lab.spec.python, "-I", "-m", "cli.main", "lease", "list"),
                ],
                env={**os.environ, "FLANNELD_ETCD_CAFILE": "/of/another/cluster"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert "192.168.64.11" in done.stdout
        finally:
            if stopped:
                lab.start_daemon(1)
                lab.daemon(1).wait_ready()


def test_list_has_names_time_left_and_reservations_in_order(lab: Lab) -> None:
    subnets = free_subnets(lab, 3)
    for subnet in subnets:
        done = on_host(lab, 1, "lease", "reserve", subnet, "--public-ip", "192.168.64.77")
        assert done.returncode == 0, done.stderr
    found = leases(lab)
    numbers = [int(one["subnet"].split(".")[2]) for one in found]
    assert numbers == sorted(numbers)
    reserved = [one for one in found if one["reserved"]]
    assert {one["subnet"] for one in reserved} == set(subnets)
    assert all(one["expires_in"] is None for one in reserved)
    as_yaml = yaml.safe_load(on_host(lab, 1, "lease", "list", "-o", "yaml").stdout)
    assert [one["subnet"] for one in as_yaml] == [one["subnet"] for one in found]
    table = on_host(lab, 1, "lease", "list").stdout
    line = next(line for line in table.splitlines() if "192.168.64.11" in line)
    assert " h1 " in line
    assert "23 h" in line or "1 d" in line
    assert table.count("reserved") == 3


@pytest.mark.parametrize("separator", ["/", "-"])
def test_release_takes_a_subnet_as_people_and_etcd_write_it(lab: Lab, separator: str) -> None:
    (subnet,) = free_subnets(lab, 1)
    written = subnet.replace("/", separator)
    on_host(lab, 1, "lease", "reserve", subnet, "--public-ip", "192.168.64.77")
    done = on_host(lab, 1, "lease", "release", written)
    assert done.stdout == f"{subnet} is free\n", done.stderr
    again = on_host(lab, 1, "lease", "release", written)
    assert again.returncode == 1
    assert again.stderr == (
        f"flatmesh: nobody holds {written}: flatmesh lease list shows who holds what\n"
    )


def test_release_takes_a_host(lab: Lab) -> None:
    before = {one["host"]: one["subnet"] for one in leases(lab) if one["host"]}
    lab.daemon(2).stop()
    try:
        done = on_host(lab, 1, "lease", "release", "--host", "h2")
        assert done.stdout == f"{before['h2']} is free\n", done.stderr
        assert "h2" not in {one["host"] for one in leases(lab)}
        unknown = on_host(lab, 1, "lease", "release", "--host", "h7")
        assert unknown.returncode == 1
        assert "no lease of host h7" in unknown.stderr
    finally:
        lab.start_daemon(2)
        lab.daemon(2).wait_ready()


def test_lab_status_is_for_people_and_programs(lab: Lab) -> None:
    def status(*arguments: str) -> subprocess.CompletedProcess[str]:
        which = ("--dir", str(lab.directory.parent), "--name", lab.spec.name)
        return subprocess.run(
            [lab.spec.python, "-I", "-m", "cli.main", "lab", "status", *which, *arguments],
            env={**os.environ, "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )

    found = json.loads(status("-o", "json").stdout)
    assert [one["host"] for one in found["hosts"]] == ["h1", "h2"]
    assert found["hosts"][0]["daemon_pid"] == lab.daemon_pid(1)
    assert [one["name"] for one in found["hosts"][0]["pods"]] == ["h1-p1"]
    assert all(pair["rtt"] > 0 and not pair["nat"] for pair in found["pairs"])
    table = status()
    assert table.returncode == 0, table.stdout
    assert "h1-p1" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80

# SPDX-License-Identifier: Apache-2.0
"""Flags and variables of flanneld: as Go writes them, and what to do instead of those we lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from agent.flanneld.flags import FLAGS, flanneld_options, notes, variable_of
from agent.main import command as daemon
from agent.settings import boolean, go_flags
from cli.main import cli


@click.command()
@click.option("--iface", multiple=True, envvar="FLANNELD_IFACE")
@boolean("--ip-masq", envvar="FLANNELD_IP_MASQ")
@flanneld_options
def settings(**given: Any) -> None:
    click.echo(given)
    for line in notes(click.get_current_context(), ENVIRONMENT):
        click.echo(line)


ENVIRONMENT = {
    "FLANNELD_IFCE": "eth0",
    "FLATMESH_IFACE": "eth0",
    "FLANNELD_IP_MASQ": "true",
    "FLANNELD_XYZZY": "1",
    "FLANNELD_SERVICE_HOST": "10.96.0.1",
    "FLANNELD_PORT": "tcp://10.96.0.1:80",
    "FLATMESH_SOMETHING": "1",
    "HOME": "/root",
}


def run(*arguments: str, variables: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(settings, go_flags(arguments), env=variables)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-iface=eth0", "-iface", "eth1"], {"iface": ("eth0", "eth1")}),
        (["-ip-masq"], {"ip_masq": True}),
        (["-ip-masq=false"], {"ip_masq": False}),
        (["-v=5"], {"verbosity": 5}),
        (["--v=5"], {"verbosity": 5}),
        (["-v", "5"], {"verbosity": 5}),
        (["-log_backtrace_at=a.go:1", "-vmodule=a=1", "-v=1"], {"verbosity": 1}),
        (["-use-multi-cluster-cidr=false", "-persistent-mac"], {"verbosity": 0}),
    ],
)
def test_flags_are_read_as_go_writes_them(
    arguments: list[str], expected: Mapping[str, object]
) -> None:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    for name, value in expected.items():
        assert f"{name!r}: {value!r}" in result.output


@pytest.mark.parametrize("flag", [one for one in FLAGS if one.refused], ids=lambda one: one.name)
def test_a_flag_that_we_lack_is_refused_with_what_to_do(flag: Any) -> None:
    value = "true" if flag.boolean else "x"
    ways: tuple[tuple[list[str], dict[str, str]], ...] = (
        ([f"-{flag.name}={value}"], {}),
        ([f"--{flag.name}", value], {}),
        ([], {variable_of(flag.name): value}),
    )
    for arguments, variables in ways:
        result = run(*arguments, variables=variables)
        assert result.exit_code == 2
        assert f"flatmeshd has no --{flag.name} of flanneld: {flag.instead}" in result.output


def test_one_that_asks_for_nothing_is_accepted() -> None:
    assert run(variables={"FLANNELD_IP_BLACKHOLE_ROUTE": "false"}).exit_code == 0
    assert run(variables={"FLANNELD_IP_BLACKHOLE_ROUTE": ""}).exit_code == 0
    assert run("-ip-blackhole-route").exit_code == 2


def test_the_log_says_what_has_no_effect() -> None:
    lines = run("--iptables-resync=5").output.splitlines()[1:]
    assert lines == [
        "--iptables-resync is not needed: the kernel tells of changed rules",
        "FLANNELD_IFCE is no setting of flatmeshd and has no effect: did you mean FLANNELD_IFACE?",
        "FLANNELD_XYZZY is no setting of flatmeshd and has no effect: flatmeshd --help lists all",
        "FLATMESH_IFACE is no setting of flatmeshd and has no effect: did you mean FLANNELD_IFACE?",
    ]


def test_the_daemon_has_all_of_them() -> None:
    names = {name for option in daemon.params for name in option.opts}
    assert {f"--{flag.name}" for flag in FLAGS} | {"-v", "--v"} <= names


def test_flatmesh_names_a_misspelt_variable_of_etcd() -> None:
    variables = {"FLANNELD_ETCD_ENDPOINT": "x", "FLANNELD_ETCD_ENDPOINTS": "ftp://x"}
    result = CliRunner().invoke(cli, ["config", "show"], env=variables)
    assert "did you mean FLANNELD_ETCD_ENDPOINTS?" in result.output

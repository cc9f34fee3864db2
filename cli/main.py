# SPDX-License-Identifier: Apache-2.0
"""`flatmesh`: what an operator types.

    flatmesh lab up|status|exec|down|list     clusters on this machine
    flatmesh config show|set|diff             the cluster config in etcd
    flatmesh lease list|reserve|release       who owns which subnet
    flatmesh service list|show|set|remove     one address or published port for many endpoints
    flatmesh endpoint list|set|remove         the servers behind services
    flatmesh wireguard rotate-key             a new WireGuard key for this host
    flatmesh check                            who reaches whom, by temporary pods
    flatmesh status|pods|peers                what is going on, and what is wrong
    flatmesh docker-options                   Docker's default bridge becomes kbr0
    flatmesh doctor                           what this host lacks
    flatmesh bench                            how fast pods talk here, beside what others make

Every failure is one line on stderr and exit status 1; wrong usage is 2 (click's).
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import click

from base.command_line import color_setting, complete, explained, version_option
from base.errors import FlatmeshError, one_line
from cli.check_command import check
from cli.cluster import adopt_host_variables
from cli.docker_options import docker_options
from cli.doctor import doctor
from cli.etcd_commands import config_group
from cli.lease_commands import lease_group
from cli.service_commands import endpoint_group, service_group
from cli.status.commands import peers, pods, status
from cli.vip_commands import vip_group
from cli.wireguard_commands import wireguard_group


@explained(
    "flatmesh status",
    "flatmesh lease list -o json",
    "flatmesh lease list --help     # flags, environment variables and examples of a command",
)
@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@version_option("flatmesh")
def cli() -> None:
    """Overlay networks for containers: every pod one address, no NAT."""


def lab_command() -> click.Command:
    """Return the lab's commands, or where there is no lab, a command that tells how to get it."""
    if find_spec("lab") is None:  # deploy/install without --lab
        return missing_command("lab", "Clusters on this machine: not installed here.")
    from lab.commands import lab_group  # noqa: PLC0415 - not installed on production hosts

    return lab_group


def bench_command() -> click.Command:
    """Return the benchmarks' command, or one that tells how to get it, likewise."""
    if find_spec("bench") is None:
        return missing_command("bench", "How fast pods talk: not installed here.")
    from bench.commands import bench_group  # noqa: PLC0415 - not installed on production hosts

    return bench_group


def missing_command(name: str, help_text: str) -> click.Command:
    """Return a command in place of one that production hosts do not have."""

    @click.command(
        name,
        help=help_text,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def refuse() -> None:
        raise FlatmeshError(
            f"`flatmesh {name}` is not installed on this host; get it with: deploy/install --lab"
        )

    return refuse


cli.add_command(lab_command())
cli.add_command(config_group)
cli.add_command(lease_group)
cli.add_command(service_group)
cli.add_command(endpoint_group)
cli.add_command(vip_group)
cli.add_command(wireguard_group)
for _command in (status, pods, peers, check):
    cli.add_command(_command)
cli.add_command(docker_options)
cli.add_command(doctor)
cli.add_command(bench_command())
complete(cli)


def main() -> None:
    """Run the command; an error that users can fix is printed as one line."""
    adopt_host_variables(os.environ)
    try:
        cli(prog_name="flatmesh", color=color_setting(os.environ))
    except (FlatmeshError, OSError) as error:
        click.echo(f"flatmesh: {one_line(error)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

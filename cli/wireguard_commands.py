# SPDX-License-Identifier: Apache-2.0
"""`flatmesh wireguard`: this host's WireGuard key."""

from __future__ import annotations

from pathlib import Path

import click

from base.command_line import explained
from base.paths import STATE_DIR
from flannel.wireguard.key import KeyFile, WireguardKeyError


@click.group("wireguard")
def wireguard_group() -> None:
    """This host's WireGuard key."""


@explained("flatmesh wireguard rotate-key")
@wireguard_group.command("rotate-key")
@click.option(
    "--state-dir",
    envvar="FLATMESH_STATE_DIR",
    type=click.Path(path_type=Path),
    default=STATE_DIR,
    show_default=True,
    help="Where flatmeshd keeps the key.",
)
def rotate_key(state_dir: Path) -> None:
    """Ask the daemon for a new key; traffic goes on, and peers follow by the lease.

    The daemon makes the key within the seconds of its --resync, or when it starts.
    """
    file = KeyFile(state_dir)
    if file.read() is None:
        raise WireguardKeyError(
            f"{file.path}: no such file, so this host has no WireGuard key to replace: "
            "flatmeshd makes one when Backend.Type is wireguard"
        )
    file.ask_rotation()
    click.echo(f"asked for a new key ({file.request}); flatmeshd makes it at its next resync")

# SPDX-License-Identifier: Apache-2.0
"""Man pages and shell completion: written at install time, from the commands of this version.

    python -m cli.shell_files --share /usr/local/share --list /opt/flatmesh/shell-files
    python -m cli.shell_files --list /opt/flatmesh/shell-files --uninstall

The list holds what was written, and the directories that were made for it: an upgrade removes what
the new version no longer has, and an uninstall all of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from agent.main import command as daemon
from base.version import version_text
from cli.main import cli
from cli.man_pages import COMMANDS, DAEMONS, pages

PROGRAMS: dict[str, tuple[click.Command, int]] = {
    "flatmesh": (cli, COMMANDS),
    "flatmeshd": (daemon, DAEMONS),
}
SHELLS: dict[type[ShellComplete], str] = {
    BashComplete: "bash-completion/completions/{program}",
    ZshComplete: "zsh/site-functions/_{program}",
    FishComplete: "fish/vendor_completions.d/{program}.fish",
}


def files() -> Iterator[tuple[str, str]]:
    """Paths below the share directory, and their texts."""
    version = version_text()
    for program, (command, section) in PROGRAMS.items():
        for page in pages(program, command, version, section):
            yield f"man/{page.file}", page.text
        variable = f"_{program.upper()}_COMPLETE"
        for shell, place in SHELLS.items():
            script = shell(command, {}, program, variable)
            # not source(): it runs bash to learn its version, and this host may have none
            yield place.format(program=program), script.source_template % script.source_vars()


def install(share: Path, listing: Path) -> None:
    """Write all files and the list; remove those of an earlier version that are no more."""
    before = _listed(listing)
    made: list[Path] = [path for path in before if path.is_dir()]
    written = []
    for name, text in files():
        path = share / name
        made += [one for one in (path.parent, *path.parent.parents) if not one.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.chmod(0o644)
        new.replace(path)
        written.append(path)
    for path in before:
        if path not in written and not path.is_dir():
            path.unlink(missing_ok=True)
    listing.write_text("".join(f"{path}\n" for path in dict.fromkeys((*written, *made))))


def uninstall(listing: Path) -> None:
    """Remove what the list holds; a directory that holds other files stays."""
    listed = _listed(listing)
    for path in listed:
        if not path.is_dir():
            path.unlink(missing_ok=True)
    for path in sorted(listed, key=lambda one: len(one.parts), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    listing.unlink(missing_ok=True)


def _listed(listing: Path) -> list[Path]:
    try:
        return [Path(line) for line in listing.read_text().splitlines()]
    except FileNotFoundError:
        return []


@click.command()
@click.option("--share", type=click.Path(path_type=Path), default="/usr/local/share")
@click.option("--list", "listing", type=click.Path(path_type=Path), required=True)
@click.option("--uninstall", "remove", is_flag=True)
def main(share: Path, listing: Path, *, remove: bool) -> None:
    """Write or remove man pages and shell completion."""
    os.umask(0o022)
    if remove:
        uninstall(listing)
    else:
        install(Path(os.path.abspath(share)), listing)  # noqa: PTH100 - links stay as they are


if __name__ == "__main__":
    main(prog_name="cli.shell_files")

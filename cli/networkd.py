# SPDX-License-Identifier: Apache-2.0
"""systemd-networkd: whether it removes routes and rules that it did not set itself.

With its defaults it does, from the devices that it manages, each time it configures one of them
(networkd.conf(5), ManageForeignRoutes=). Reads only.
"""

from __future__ import annotations

import configparser
from pathlib import Path

SETTINGS = ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules")
DIRECTORIES = ("usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd")
"""Below the root directory; a file of a later one replaces one of the same name."""
COMMAND = "systemd-network"
"""Its name in /proc, which keeps 15 characters."""
DROP_IN = "/etc/systemd/networkd.conf.d/10-flatmesh.conf"
OFF = {"0", "no", "n", "false", "f", "off"}


def networkd_runs() -> bool:
    """Whether a systemd-networkd runs on this machine."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == COMMAND:
                return True
        except OSError:
            continue  # it has just ended
    return False


def removes(root: Path = Path("/")) -> list[str]:
    """The settings with which networkd removes what others set; none: it leaves that alone."""
    drop_ins: dict[str, Path] = {}
    for directory in DIRECTORIES:
        folder = root / directory / "networkd.conf.d"
        drop_ins |= {path.name: path for path in folder.glob("*.conf")}
    values = dict.fromkeys(SETTINGS, "yes")
    for path in (
        root / "etc/systemd/networkd.conf",
        *(drop_ins[name] for name in sorted(drop_ins)),
    ):
        values |= _settings(path)
    return [name for name, value in values.items() if value.lower() not in OFF]


def _settings(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read(path)
    except (OSError, configparser.Error, UnicodeDecodeError):
        return {}
    if not parser.has_section("Network"):
        return {}
    return {name: value for name in SETTINGS if (value := parser["Network"].get(name))}


def mend() -> str:
    """A command that has networkd leave alone what others set."""
    lines = "".join(f"{name}=no\\n" for name in SETTINGS)
    directory = DROP_IN.rpartition("/")[0]
    return (
        f"mkdir -p {directory} && printf '[Network]\\n{lines}' >{DROP_IN} "
        "&& systemctl restart systemd-networkd"
    )

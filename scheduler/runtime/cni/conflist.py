# SPDX-License-Identifier: Apache-2.0
"""Network configurations as a directory holds them, and what each plugin of a list is sent.

CNI SPEC 1.1.0, sections 1 and 3. Files are read in the order of their names; the first valid one
is the default network. A file of one plugin (`.conf`) counts as a list of one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.runtime.errors import NetworkError

SUFFIXES = (".conflist", ".conf", ".json")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
NEWEST = (1, 1, 0)
"""The version that we speak; a list that offers several is used with the newest up to it."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """One network: plugins that are called one after the other."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    check: bool = True
    gc: bool = True

    def as_json(self) -> dict[str, Any]:
        """In the form of a file, with the version that was chosen."""
        return {
            "cniVersion": self.version,
            "name": self.name,
            "disableCheck": not self.check,
            "disableGC": not self.gc,
            "plugins": list(self.plugins),
        }

    def has_capability(self, name: str) -> bool:
        """Whether a plugin of the list takes this capability's arguments."""
        return any((p.get("capabilities") or {}).get(name) is True for p in self.plugins)

    def request(
        self,
        plugin: Mapping[str, Any],
        capability_args: Mapping[str, Any],
        previous: Mapping[str, Any] | None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What one plugin gets on stdin."""
        conf = {k: v for k, v in plugin.items() if k != "capabilities"}
        conf.update(extra or {}, cniVersion=self.version, name=self.name)
        wanted = plugin.get("capabilities") or {}
        given = {k: v for k, v in capability_args.items() if wanted.get(k) is True}
        if given:
            conf["runtimeConfig"] = given
        if previous is not None:
            conf["prevResult"] = previous
        return conf


def version_numbers(text: str) -> tuple[int, int, int]:
    """`1.0.0` as numbers that compare; raises ValueError."""
    first, second, third = (int(part) for part in text.split("."))
    return first, second, third


def parse(text: bytes | str, where: str) -> NetworkConfig:
    """Read one configuration; raises NetworkError, which says what is wrong in it."""
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise NetworkError(f"{where}: is no JSON object")
        if "plugins" not in data:
            data = {
                "cniVersion": data.get("cniVersion", "0.2.0"),
                "name": data.get("name"),
                "plugins": [{k: v for k, v in data.items() if k not in ("cniVersion", "name")}],
            }
        offered = [str(v) for v in data.get("cniVersions") or ()] or [
            str(data.get("cniVersion") or "0.2.0")
        ]
        known = [v for v in offered if version_numbers(v) <= NEWEST]
    except ValueError as error:
        raise NetworkError(f"{where}: {error}") from None
    name, plugins = data.get("name"), data["plugins"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise NetworkError(f"{where}: name {name!r} is no name of a network")
    if not isinstance(plugins, list) or not plugins:
        raise NetworkError(f"{where}: plugins is empty")
    for plugin in plugins:
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str):
            raise NetworkError(f"{where}: a plugin without type")
        if "/" in plugin["type"] or plugin["type"] in ("", ".", ".."):
            raise NetworkError(f"{where}: type {plugin['type']!r} must be a file's name, no path")
    if not known:
        raise NetworkError(f"{where}: cniVersion {', '.join(offered)} is newer than 1.1.0")
    version = max(known, key=version_numbers)
    return NetworkConfig(
        name,
        version,
        tuple(plugins),
        check=data.get("disableCheck") not in (True, "true"),
        gc=data.get("disableGC") not in (True, "true"),
    )


def load(directory: Path) -> tuple[dict[str, NetworkConfig], list[str]]:
    """All networks of a directory by name, and what is wrong with files that can't be used."""
    found: dict[str, NetworkConfig] = {}
    problems = []
    try:
        paths = sorted(p for p in directory.iterdir() if p.suffix in SUFFIXES)
    except OSError as error:
        return {}, [f"{directory}: {error.strerror}"]
    for path in paths:
        try:
            config = parse(path.read_bytes(), str(path))
        except NetworkError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        else:
            found.setdefault(config.name, config)
    return found, problems


def choose(directory: Path, names: Sequence[str]) -> list[NetworkConfig]:
    """The networks of these names; none: the default one. Raises NetworkError."""
    found, problems = load(directory)
    if not found:
        reason = f" ({'; '.join(problems)})" if problems else ""
        raise NetworkError(
            f"no network is configured in {directory}{reason}: "
            "copy a conflist there, for example deploy/10-flatmesh.conflist"
        )
    if not names:
        return [next(iter(found.values()))]
    missing = [name for name in names if name not in found]
    if missing:
        raise NetworkError(
            f"network {missing[0]!r} is not in {directory}: there are {', '.join(found)}"
        )
    return [found[name] for name in names]

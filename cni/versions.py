# SPDX-License-Identifier: Apache-2.0
"""The versions of the CNI specification that we support, and the commands of each."""

from __future__ import annotations

import re

from cni.errors import INCOMPATIBLE_VERSION, CniError

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = SUPPORTED[-1]
DEFAULT = "0.1.0"  # of a config without cniVersion: the key came after this version

_FORM = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
# The first version with a command; commands that are not listed exist in all versions.
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


def order(version: str) -> tuple[int, ...]:
    """A key by which versions compare."""
    return tuple(int(part) for part in version.split("."))


def at_least(version: str, other: str) -> bool:
    """Whether `version` is `other` or newer."""
    return order(version) >= order(other)


def require(version: object) -> str:
    """Return the version if we support it. Raises CniError (1)."""
    if isinstance(version, str) and version in SUPPORTED:
        return version
    shown = version if isinstance(version, str) else repr(version)
    what = "is not supported" if _FORM.fullmatch(str(version)) else "is no version"
    raise CniError(
        INCOMPATIBLE_VERSION,
        f"incompatible CNI versions: cniVersion {shown!r} {what}; use one of "
        f"{', '.join(SUPPORTED)}",
    )


def require_command(command: str, version: str) -> None:
    """Refuse a command that the config's version doesn't have. Raises CniError (1)."""
    since = _SINCE.get(command)
    if since is not None and not at_least(version, since):
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"config version does not allow {command}: cniVersion is {version}, "
            f"{command} needs {since} or newer",
        )

# SPDX-License-Identifier: Apache-2.0
"""Who a container's command runs as: numbers, or names of the image's /etc/passwd and /etc/group.

Read inside of the container, as files: the C library's lookups could ask the host's services.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scheduler.runtime.errors import RuntimeCallError


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the groups of the process."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/root"


def lookup(user: str, groups: tuple[str, ...], etc: Path = Path("/etc")) -> Account:
    """What `USER[:GROUP]` means in this root; raises RuntimeCallError for an unknown name."""
    name, _, group = user.partition(":")
    people, listed = _records(etc / "passwd"), _records(etc / "group")
    uid, gid, home = 0, 0, "/root"
    login = name or "root"
    found = next((r for r in people if name and r[0] == name), None) or next(
        (r for r in people if r[2] == (name or "0")), None
    )
    if found is not None:
        login, uid, gid = found[0], int(found[2]), int(found[3])
        home = found[5] if len(found) > 5 and found[5] else "/"
    elif name.isdigit():
        uid, home = int(name), "/"
    elif name:
        raise RuntimeCallError(f"user {name!r} is not in the image's /etc/passwd")
    if group:
        gid = _gid(group, listed)
        member = []
    else:
        member = [int(r[2]) for r in listed if len(r) > 3 and login in r[3].split(",")]
    extra = [_gid(g, listed) for g in groups]
    return Account(uid, gid, tuple(dict.fromkeys([gid, *member, *extra])), home)


def _gid(group: str, listed: list[list[str]]) -> int:
    found = next((r for r in listed if r[0] == group), None)
    if found is not None:
        return int(found[2])
    if group.isdigit():
        return int(group)
    raise RuntimeCallError(f"group {group!r} is not in the image's /etc/group")


def _records(path: Path) -> list[list[str]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    records = [line.split(":") for line in lines]
    return [r for r in records if len(r) >= 4 and r[2].isdigit()]

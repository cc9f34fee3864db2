# SPDX-License-Identifier: Apache-2.0
r"""Reads `/etc/default/flatmeshd` as systemd does (systemd.exec(5), EnvironmentFile=).

    # a comment; lines that begin with ; are comments, too
    FLANNELD_ETCD_ENDPOINTS=http://192.168.64.1:2379
    FLANNELD_IFACE='eth1'
    FLANNELD_ETCD_USERNAME="a \"quoted\" name"

Nothing is expanded: `$` is a character like others. What is no assignment is ignored, as systemd
does after a line in its log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
KEPT_AFTER_BACKSLASH = '"\\`$'
"""Within double quotes a backslash before other characters is itself."""


def parse(text: str) -> dict[str, str]:
    """The variables, the last assignment of each."""
    found = {}
    characters = iter(text)
    for first in characters:
        if first.isspace():
            continue
        if first in "#;":
            _comment(characters)
            continue
        name, more = _name(first, characters)
        value = _value(characters) if more else ""
        if more and NAME.fullmatch(name):
            found[name] = value
    return found


def _comment(characters: Iterator[str]) -> None:
    for one in characters:
        if one == "\\":
            next(characters, "")  # a comment goes on after a backslash at the end of its line
        elif one == "\n":
            return


def _name(first: str, characters: Iterator[str]) -> tuple[str, bool]:
    """What is before `=`, and whether there was one in the line."""
    name = first
    for one in characters:
        if one in "=\n":
            return name.rstrip(), one == "="
        name += one
    return name, False


def _value(characters: Iterator[str]) -> str:
    """The value up to the end of the line; quoted parts are joined."""
    value, kept = "", 0  # white space after `kept` characters is dropped at the end
    at_start = True
    for one in characters:
        if one == "\n":
            break
        if at_start and one.isspace():
            continue
        if at_start and one in "'\"":
            value += _quoted(one, characters)
            kept = len(value)
            continue
        at_start = False
        if one == "\\":
            following = next(characters, "")
            value += "" if following == "\n" else following
            kept = len(value)
        else:
            value += one
            kept = kept if one.isspace() else len(value)
    return value[:kept]


def _quoted(quote: str, characters: Iterator[str]) -> str:
    part = ""
    for one in characters:
        if one == quote:
            break
        if one == "\\" and quote == '"':
            following = next(characters, "")
            if following not in KEPT_AFTER_BACKSLASH + "\n":
                part += "\\"
            part += "" if following == "\n" else following
        else:
            part += one
    return part

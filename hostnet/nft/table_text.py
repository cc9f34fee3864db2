# SPDX-License-Identifier: Apache-2.0
"""A table as `nft list table` prints it, compared with the text that it was made of. Pure."""

from __future__ import annotations

import re

_SET = re.compile(r"\tset (\S+) \{\n(.*?)\n\t\}", re.DOTALL)
_ELEMENTS = re.compile(r"\n\t\telements = \{[^}]*\}")


def is_as_made(listed: str, made: str) -> bool:
    """Whether two tables in nft's normal form are the same but for the elements of their sets."""
    return without_elements(listed) == without_elements(made)


def without_elements(text: str) -> str:
    """The text without the elements of its sets."""
    return _ELEMENTS.sub("", text)


def sets_as_made(listed: str, made: str) -> set[str]:
    """The sets that are declared as they were made: they may keep their elements and counters."""
    wanted, found = _declarations(made), _declarations(listed)
    return {name for name, body in wanted.items() if found.get(name) == body}


def _declarations(text: str) -> dict[str, str]:
    return dict(_SET.findall(without_elements(text)))

# SPDX-License-Identifier: Apache-2.0
"""Changes as an operator would type them: each line can be given to a shell.

The lines of plans and logs leave out quotes, for readers. nft(8) takes a command of several words
with braces and semicolons, which a shell would take apart.
"""

from __future__ import annotations

import re
import shlex

_SET = re.compile(r"add (?:set|map) (\S+ \S+) ")


def shell_line(line: str) -> str:
    """The line with nft's part quoted; a set brings its table along."""
    program, _, rest = line.partition(" ")
    if program != "nft":
        return line
    made = _SET.match(rest)
    if made:
        rest = f"add table {made[1]}; {rest}"
    return f"nft {shlex.quote(rest)}"

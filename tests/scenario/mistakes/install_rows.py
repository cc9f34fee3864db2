# SPDX-License-Identifier: Apache-2.0
"""Mistakes with the arguments of `deploy/install`: told before anything is fetched."""

from __future__ import annotations

from tests.scenario.mistakes.row import Mistake

ARGUMENTS = (
    ("--labb", "install: unknown option --labb; see ", 2),
    ("extra", "install: unknown option extra; see ", 2),
    ("--prefix", "install: --prefix needs a directory", 2),
    ("--cni-bin=", "install: --cni-bin needs a directory", 2),
    ("--prefix '/opt/flat mesh'", "use letters, digits and ._+- (it stands in #! lines)", 2),
    ("--prefix /proc/flatmesh", "install: /proc/flatmesh can't be made or written", 1),
    ("--bin {tmp}/wrong --prefix {tmp}/p", "{tmp}/wrong can't be made or written: give another", 1),
    ("--prefix {tmp}/certs", "{tmp}/certs holds other things than flatmesh: give another", 1),
)
ROWS = tuple(
    Mistake(f"install {words}", f"install {words}", expected, status)
    for words, expected, status in ARGUMENTS
)

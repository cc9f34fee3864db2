# SPDX-License-Identifier: Apache-2.0
"""/etc/default/flatmeshd is read as systemd reads it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cli.environment_file import parse

TEXT = r"""
# FLANNELD_IFACE=comment
; FLANNELD_IFACE=comment, too \
FLANNELD_IFACE=still the comment
PLAIN=http://192.168.64.1:2379
  INDENTED = with spaces  
SINGLE='it is $HOME \n'
DOUBLE="a \"quoted\" \$name \x"
JOINED='one'" two"three
LONG=first \
second
ESCAPED=a\ b\\c
MIDDLE=a"b"c
EMPTY=
LAST=1
LAST=2
1BAD=x
no assignment
UNFINISHED="to the end
"""  # noqa: W291 - white space at the end of a line is part of the test
EXPECTED = {
    "PLAIN": "http://192.168.64.1:2379",
    "INDENTED": "with spaces",
    "SINGLE": r"it is $HOME \n",
    "DOUBLE": r'a "quoted" $name \x',
    "JOINED": "one twothree",
    "LONG": "first second",
    "ESCAPED": r"a b\c",
    "MIDDLE": 'a"b"c',
    "EMPTY": "",
    "LAST": "2",
    "UNFINISHED": "to the end\n",
}


def test_values_are_as_systemd_gives_them() -> None:
    assert parse(TEXT) == EXPECTED


def test_an_empty_file_sets_nothing() -> None:
    assert parse("") == {}
    assert parse("NAME") == {}
    assert parse("NAME=value") == {"NAME": "value"}


@pytest.mark.skipif(
    not shutil.which("systemd-run") or not Path("/run/systemd/system").is_dir(),
    reason="no systemd runs here",
)
def test_systemd_itself_reads_the_same(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text(TEXT)
    argv = ["systemd-run", "--wait", "--pipe", "-q", "-p", f"EnvironmentFile={file}", "env", "-0"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    there = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    assert {name: there.get(name) for name in EXPECTED} == EXPECTED

# SPDX-License-Identifier: Apache-2.0
"""The shape of the source: small files, small folders, one name per meaning."""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

from tests.spdx import has_line

REPOSITORY = Path(__file__).parents[2]
MAX_LINES = 400  # the licence is none of them
MAX_FILES = 25  # directly in one folder
GENERATED = {
    *("etcd/etcd_pb2.py", "etcd/etcd_pb2.pyi"),
    *("scheduler/runtime/containerd/cri_pb2.py", "scheduler/runtime/containerd/cri_pb2.pyi"),
}
SOURCES = {".py", ".pyi", ".c", ".h", ".sh"}
SAYS_NOTHING = {"utils", "helpers", "common", "manager"}
RETIRED_MODULES = {
    *("address_choice", "choose", "departed", "fault_points", "layout", "lease_keeper"),
    *("plain_errors", "situation", "turns", "wire"),
}
# Names of the first versions that readers had to have explained; each has a plain successor
# (docs/glossary.md).
RETIRED_NAMES = {
    *("Situation", "Departed", "Settled", "LeaseKeeper", "Cable", "Ends", "Turns", "Word"),
    *("Count", "Bulk", "Bulky", "Pair", "Cell", "Found", "AddressBook", "AddressBookError"),
    *("FoundAddress", "FoundLink", "FoundNexthop", "FoundRoute", "FoundState"),
    *("PATIENCE", "NAP", "LOOK", "QUIET", "SETTLE", "PHY", "HOST_END", "PLAIN_ERRORS"),
    *("look_again", "plug_in", "words_of", "fault_points", "turn", "say", "note", "guard"),
    *("book", "cable", "cables"),
}
IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
C_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def sources() -> list[Path]:
    """Every source file that git has, or would add."""
    which = ("--cached", "--others", "--exclude-standard")
    listed = subprocess.check_output(["git", "ls-files", "-z", *which], cwd=REPOSITORY, text=True)
    paths = [Path(name) for name in listed.split("\0") if name]
    return [path for path in paths if (REPOSITORY / path).is_file()]


def code() -> list[Path]:
    """Files with source text, generated ones left out; a script needs no suffix."""
    found = []
    for path in sources():
        if str(path) in GENERATED:
            continue
        script = not path.suffix and (REPOSITORY / path).read_bytes().startswith(b"#!")
        if path.suffix in SOURCES or script:
            found.append(path)
    return found


def identifiers(path: Path) -> set[str]:
    """The names in a file's code: neither comments nor strings."""
    text = (REPOSITORY / path).read_text()
    if path.suffix in (".c", ".h"):
        return set(IDENTIFIER.findall(C_TEXT.sub(" ", text)))
    if path.suffix not in (".py", ".pyi"):
        return set()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def test_no_file_is_longer_than_a_reader_keeps_in_mind() -> None:
    lengths = {path: len((REPOSITORY / path).read_text().splitlines()) - 1 for path in code()}
    assert {str(path): n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_every_file_says_its_licence() -> None:
    lacking = [str(path) for path in code() if not has_line(REPOSITORY / path)]
    assert lacking == [], "run .venv/bin/python -m tests.spdx"


def test_no_folder_holds_more_files_than_one_screen() -> None:
    counts = Counter(path.parent for path in sources())
    assert {str(folder): n for folder, n in counts.items() if n > MAX_FILES} == {}


def test_every_module_is_named_after_its_subject() -> None:
    refused = SAYS_NOTHING | RETIRED_MODULES
    assert [str(path) for path in code() if path.stem in refused] == []


def test_no_retired_name_is_left_in_the_code() -> None:
    own = Path(__file__).relative_to(REPOSITORY)
    found = {str(path): identifiers(path) & RETIRED_NAMES for path in code() if path != own}
    assert {path: names for path, names in found.items() if names} == {}

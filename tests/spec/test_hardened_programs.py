# SPDX-License-Identifier: Apache-2.0
"""The parts in C are compiled with what a distribution compiles its own programs with."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from cni.install import install
from flannel.udp import _plane


def readelf(option: str, file: Path | str) -> str:
    return subprocess.run(
        ["readelf", "--wide", option, str(file)], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_cni_client(tmp_path: Path, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    lines = install(tmp_path, compilers=(compiler,))
    assert "static program" in lines[0]
    without_library = f"static program compiled by {compiler}" in lines[0]
    assert without_library == (platform.machine() == "x86_64")
    client = tmp_path / "flatmesh"
    # a text that is found by a pointer: these are moved to where the program is loaded
    directory = os.open("/", os.O_RDONLY)
    try:
        refused = subprocess.run([client], stdin=directory, capture_output=True, check=False)
    finally:
        os.close(directory)
    assert (refused.returncode, json.loads(refused.stdout)["details"]) == (1, "Is a directory")
    assert "DYN (Position-Independent Executable file)" in readelf("--file-header", client)
    segments = readelf("--program-headers", client)
    assert "GNU_RELRO" in segments
    (stack,) = [line for line in segments.splitlines() if "GNU_STACK" in line]
    assert " E " not in stack.replace("RWE", " E ")
    flags = readelf("--dynamic", client)
    assert "NOW" in flags
    assert "PIE" in flags
    assert b"stack smashing detected" in client.read_bytes()
    assert b"buffer overflow detected" in client.read_bytes()


def test_the_udp_data_plane() -> None:
    assert _plane.__file__ is not None
    assert "GNU_RELRO" in readelf("--program-headers", _plane.__file__)
    assert "BIND_NOW" in readelf("--dynamic", _plane.__file__)
    # no call is checked by _FORTIFY_SOURCE: the compiler knows that all of them fit
    assert "__stack_chk_fail" in readelf("--dyn-syms", _plane.__file__)

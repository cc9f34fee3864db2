# SPDX-License-Identifier: Apache-2.0
"""Put the CNI executables into a directory where runtimes look for them.

    python -m cni.install --bin-dir /opt/cni/bin [--uninstall]

They are one small compiled program under three names. Where there is no compiler, they are
one small Python program that does the same more slowly. Each is written under a temporary
name and then renamed, so that a runtime never runs a half-written file. Only executables that
this module wrote are replaced or removed: a real flannel plugin under the name `flannel` is
left alone, and reported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from base.errors import FlatmeshError
from base.paths import CNI_BIN_DIR

EXECUTABLES = ("flatmesh", "flatmesh-ipam", "flannel")
MARKS = (b"FLATMESH_SOCKET",)  # text that all executables of ours contain, and no others
COMPILERS = ("cc", "gcc", "clang", "musl-gcc")
HARDENED = (
    *("-O2", "-fPIE", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
    "-Wl,-z,relro,-z,now,-z,noexecstack",
)
SOURCE = Path(__file__).parent / "socket" / "client.c"
FREESTANDING = SOURCE.with_name("freestanding.c")
LINKED = (
    (("-static-pie", "-nostdlib", "-ffreestanding", str(FREESTANDING)), "static program"),
    (("-static-pie",), "static program with a C library"),
    (("-static",), "static program with a C library"),
    (("-pie",), "program with a C library"),
)
"""Ways to link, the best first. Without a C library the program starts in a fifth of the time (see
freestanding.c, which is for x86-64); a static one starts in half the time of the last."""
STARTS = {"CNI_COMMAND": "VERSION", "FLATMESH_SOCKET": "/dev/null"}
"""Variables of a call that needs no daemon: whether a compiled program runs here."""
PYTHON_SOURCE = Path(__file__).parent / "socket" / "client.py"


class InstallError(FlatmeshError):
    """The executables can't be written or removed; one line says why and what to do."""


def install(
    bin_dir: Path, python: str = sys.executable, *, compilers: tuple[str, ...] = COMPILERS
) -> list[str]:
    """Write the executables; returns a line for each, which says what was done.

    `python` is the interpreter that runs the fallback; `cni` must be importable there.
    Raises InstallError.
    """
    lines = []
    try:
        bin_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="flatmesh-install-") as work:
            program = Path(work) / "client"
            how = _compile(program, python, compilers)
            if how is None:
                program.write_bytes(_python_program(python))
                how = f"Python client (none of {', '.join(compilers)} works here)"
            for name in EXECUTABLES:
                target = bin_dir / name
                if target.exists() and not is_ours(target):
                    lines.append(f"{target}: left alone, it is another's; remove it to use ours")
                    continue
                _replace(target, program)
                lines.append(f"{target}: {how}")
    except OSError as error:
        raise InstallError(f"{error.filename or bin_dir}: {error.strerror}") from None
    return lines


def uninstall(bin_dir: Path) -> list[str]:
    """Remove our executables; returns a line for each one removed. Raises InstallError."""
    lines = []
    try:
        for name in EXECUTABLES:
            target = bin_dir / name
            if target.exists() and is_ours(target):
                target.unlink()
                lines.append(f"{target}: removed")
    except OSError as error:
        raise InstallError(f"{error.filename or bin_dir}: {error.strerror}") from None
    return lines


def is_ours(path: Path) -> bool:
    """Whether an executable was written by `install`."""
    content = path.read_bytes()
    return all(mark in content for mark in MARKS)


def _compile(program: Path, python: str, compilers: tuple[str, ...]) -> str | None:
    """Compile the client; returns how it was compiled, None when no compiler works."""
    if '"' in python or "\\" in python:
        return None  # can't stand in a C string; the Python client needs no quoting
    for compiler in compilers:
        found = shutil.which(compiler)
        if found is None:
            continue
        for extra, what in LINKED:
            command = [found, *HARDENED, "-s", *extra, f'-DFLATMESH_PYTHON="{python}"']
            done = subprocess.run(
                [*command, "-o", str(program), str(SOURCE)], capture_output=True, check=False
            )
            if done.returncode == 0 and _runs(program):
                return f"{what} compiled by {compiler}"
    return None


def _runs(program: Path) -> bool:
    """Whether it comes to its end, whatever it says: the interpreter may be another machine's."""
    try:
        done = subprocess.run(
            [program], input=b"{}", env=STARTS, capture_output=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode >= 0


def _python_program(python: str) -> bytes:
    if len(python) > 120 or " " in python:
        raise InstallError(
            f"the interpreter's path {python!r} can't stand in a #! line; "
            "install into a shorter path without blanks, or install gcc"
        )
    return f"#!{python} -ISE\n".encode() + PYTHON_SOURCE.read_bytes()


def _replace(target: Path, program: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as out:
            out.write(program.read_bytes())
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(0o755)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m cni.install`."""
    parser = argparse.ArgumentParser(prog="cni.install", description="Install the CNI executables.")
    parser.add_argument("--bin-dir", type=Path, default=Path(CNI_BIN_DIR))
    parser.add_argument("--python", default=sys.executable, help="interpreter of the fallback")
    parser.add_argument("--uninstall", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.uninstall:
            lines = uninstall(options.bin_dir)
        else:
            lines = install(options.bin_dir, options.python)
    except InstallError as error:
        print(f"cni.install: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Debian's stock kernels: fetched by apt into a directory of the caller, never installed.

The machine's own apt is asked only for its mirror. Lists and packages of the release go below the
caller's directory, so that an older or newer Debian than this one can be asked, too.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR = "http://deb.debian.org/debian"
RELEASES = {"bookworm": "6.1", "bullseye": "5.10", "trixie": "6.12"}
"""Debian releases, each with the version of its kernel."""
PACKAGE = "linux-image-amd64"


class KernelUnavailableError(Exception):
    """The kernel can't be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class DebianKernel:
    """An unpacked kernel."""

    version: str
    """As `uname -r` prints it: `6.1.0-57-amd64`."""
    image: Path
    modules: Path
    """The directory that is to be at /lib/modules/VERSION."""


def fetch(release: str, directory: Path) -> DebianKernel:
    """Download and unpack the kernel of a Debian release. Raises KernelUnavailableError."""
    apt = _private_apt(release, directory)
    _run("apt-get", *apt, "update", "-qq")
    depends = _run("apt-cache", *apt, "depends", PACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise KernelUnavailableError(f"{PACKAGE} of {release} names no kernel: {depends!r}")
    _run("apt-get", *apt, "download", "-qq", found[1], cwd=directory)
    (package,) = directory.glob("linux-image-*.deb")
    _run("dpkg-deb", "-x", str(package), str(directory))
    package.unlink()
    return unpacked(directory)


def unpacked(directory: Path) -> DebianKernel:
    """The kernel in a directory. Raises KernelUnavailableError."""
    images = list(directory.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise KernelUnavailableError(f"{directory}: not one kernel in boot/, but {len(images)}")
    version = images[0].name.removeprefix("vmlinuz-")
    merged = directory / "usr/lib/modules" / version
    if merged.is_dir():  # Debian 13 on
        (directory / "lib").symlink_to("usr/lib")
    _run("depmod", "-b", str(directory), version)
    return DebianKernel(version, images[0], directory / "lib/modules" / version)


def _private_apt(release: str, directory: Path) -> list[str]:
    sources = directory / "sources.list"
    for name in ("lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    sources.write_text(f"deb [signed-by={KEYRING} arch=amd64] {_mirror()} {release} main\n")
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": directory / "lists",
        "Dir::Cache": directory / "cache",
        "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64",
    }
    return [f"-o{key}={value}" for key, value in options.items()]


def _mirror() -> str:
    """Where this machine gets Debian from."""
    shown = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian")
    found = [uri for uri in shown.split() if uri.rstrip("/").endswith("/debian")]
    return found[0] if found else MIRROR


def _run(*argv: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise KernelUnavailableError(f"{argv[0]} is not installed") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise KernelUnavailableError(f"{argv[0]}: {said[-1] if said else done.returncode}")
    return done.stdout

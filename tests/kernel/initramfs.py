# SPDX-License-Identifier: Apache-2.0
"""The file system that the kernel starts from: busybox, the modules for 9p, and `init`."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.debian_kernel import DebianKernel, KernelUnavailableError

INIT = Path(__file__).with_name("init")
BUSYBOX = Path("/bin/busybox")
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
EXECUTABLE, PLAIN, DIRECTORY = 0o100755, 0o100644, 0o040755


def write(kernel: DebianKernel, target: Path) -> None:
    """Write it for a kernel. Raises KernelUnavailableError: busybox-static is not installed."""
    if not BUSYBOX.exists():
        raise KernelUnavailableError(f"{BUSYBOX} is not there: apt install busybox-static")
    modules = list(_modules(kernel))
    names = "".join(f"{path.name.removesuffix('.xz')}\n" for path in modules)
    files = [(name, DIRECTORY, b"") for name in ("bin", "dev", "proc", "sys", "modules")]
    files += [(name, DIRECTORY, b"") for name in ("machine", "changes", "root")]
    files += [("bin/busybox", EXECUTABLE, BUSYBOX.read_bytes())]
    files += [("init", EXECUTABLE, INIT.read_bytes()), ("modules.list", PLAIN, names.encode())]
    for path in modules:
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        files.append((f"modules/{path.name.removesuffix('.xz')}", PLAIN, data))
    entries = (_entry(number, *file) for number, file in enumerate(files, 1))
    target.write_bytes(gzip.compress(b"".join(entries) + _entry(0, "TRAILER!!!", 0, b""), 1))


def _modules(kernel: DebianKernel) -> Iterator[Path]:
    """The files of `MODULES` and what they depend on, in the order of loading."""
    root = kernel.modules.parents[2]
    seen = set()
    for name in MODULES:
        argv = ["modprobe", "-d", str(root), "-S", kernel.version, "--show-depends", name]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KernelUnavailableError(f"kernel {kernel.version}: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            verb, _, path = line.strip().partition(" ")
            if verb == "insmod" and path not in seen:
                seen.add(path)
                yield Path(path.split()[0])


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """A file of a cpio archive: Documentation/driver-api/early-userspace/buffer-format.rst."""
    encoded = os.fsencode(name) + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

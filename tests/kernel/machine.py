# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that has this machine's files, read-only, and another kernel.

QEMU emulates the processor in software, or uses KVM where it can. The guest has no network. Its
first serial line is what pytest prints, the second the kernel's messages, and the third carries
the exit code.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kernel import initramfs
from tests.kernel.debian_kernel import DebianKernel, KernelUnavailableError

QEMU = "qemu-system-x86_64"
FIRST_PROGRAM = Path(__file__).with_name("inside")
EMULATION = ("-accel", "tcg,thread=multi", "-cpu", "Nehalem")
"""A processor with AVX would take longer: programs then choose what is slow to emulate."""
MEMORY = 3072  # MiB: what the guest changes in its files is in there, too
PROCESSORS = 2
NO_RESULT = 70  # exit code, sysexits.h EX_SOFTWARE: the guest ended without one


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest that runs one command in a directory of this machine."""

    kernel: DebianKernel
    directory: Path
    """For files that are needed while it runs; the guest can read them."""
    checkout: Path

    def run(self, argv: Sequence[str], environment: Mapping[str, str], timeout: float) -> int:
        """Run it, with its output on stdout; returns its exit code.

        A guest that takes longer than `timeout` seconds is ended: NO_RESULT.
        Raises KernelUnavailableError.
        """
        start, ramdisk = self.directory / "start", self.directory / "initramfs"
        code, console = self.directory / "exit-code", self.directory / "console"
        settings = {**environment, "KERNEL_MODULES": str(self.kernel.modules)}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
        lines += [f"cd {shlex.quote(str(self.checkout))}", f"set -- {shlex.join(argv)}"]
        start.write_text("\n".join([*lines, f". {shlex.quote(str(FIRST_PROGRAM))}\n"]))
        initramfs.write(self.kernel, ramdisk)
        guest = subprocess.Popen(
            [*self._qemu(ramdisk, start), *_serial_lines(console, code)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        alarm = threading.Timer(timeout, guest.kill)
        alarm.start()
        try:
            assert guest.stdout is not None
            while data := os.read(guest.stdout.fileno(), 1 << 16):
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
            guest.wait()
        finally:
            expired = not alarm.is_alive()
            alarm.cancel()
            with contextlib.suppress(ProcessLookupError):
                guest.kill()
            guest.wait()
        with contextlib.suppress(OSError, ValueError):
            return int(code.read_text())
        why = f"not done within {timeout:.0f} s" if expired else "ended without a result"
        tail = console.read_text(errors="replace").splitlines()[-15:] if console.exists() else []
        print(f"kernel run: the virtual machine {why}; its kernel said:", *tail, sep="\n  ")
        return NO_RESULT

    def _qemu(self, ramdisk: Path, start: Path) -> list[str]:
        files = "local,id=machine,path=/,security_model=passthrough,readonly=on,multidevs=remap"
        return [
            QEMU,
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *(("-accel", "kvm", "-cpu", "max") if _has_kvm() else EMULATION),
            *("-smp", str(PROCESSORS), "-m", str(MEMORY)),
            *("-kernel", str(self.kernel.image), "-initrd", str(ramdisk)),
            *("-append", f"console=ttyS1 quiet panic=-1 mitigations=off start={start}"),
            *("-fsdev", files, "-device", "virtio-9p-pci,fsdev=machine,mount_tag=machine"),
        ]


def require_qemu() -> None:
    """Raise KernelUnavailableError where QEMU is not installed."""
    if shutil.which(QEMU) is None:
        raise KernelUnavailableError(f"{QEMU} is not installed: apt install qemu-system-x86")


def _has_kvm() -> bool:
    """Whether the processor can run a guest itself; /dev/kvm may be there without."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def _serial_lines(console: Path, code: Path) -> list[str]:
    return ["-serial", "stdio", "-serial", f"file:{console}", "-serial", f"file:{code}"]

# SPDX-License-Identifier: Apache-2.0
"""`tests/run --kernel`: run tests in a virtual machine with one of Debian's stock kernels.

Without arguments for pytest these are the tests that are skipped on this machine because its
kernel lacks a feature (tests/kernel/features.py).
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from lab.time_factor import VARIABLE
from tests.kernel.debian_kernel import RELEASES, KernelUnavailableError, fetch
from tests.kernel.features import ABSENT_OPTION, SHORT_OPTION
from tests.kernel.machine import Machine, require_qemu

CHECKOUT = Path(__file__).parents[2]
TIMEOUT, SHORT_TIMEOUT = 7200.0, 900.0  # seconds for the virtual machine
TIME_FACTOR = 8
"""How much longer tests wait there than here."""


def main() -> int:
    """Return pytest's exit code; 69 when no virtual machine can be had, 0 with --short."""
    arguments, given = _parser().parse_known_args()
    # its clean-up shall run when a CI job is cancelled
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    directory = Path(tempfile.mkdtemp(prefix="kernel-"))
    try:
        tests = given or _skipped_here(short=arguments.short)
        if not tests:
            print("kernel run: no test is skipped here for a missing kernel feature")
            return 0
        require_qemu()
        print(f"==> Debian {arguments.release}: its kernel", flush=True)
        machine = Machine(fetch(arguments.release, directory), directory, CHECKOUT)
        print(f"==> pytest on Linux {machine.kernel.version}", flush=True)
        color = "yes" if sys.stdout.isatty() else "no"
        options = [
            f"--color={color}",
            "-p",
            "no:cacheprovider",
            "--basetemp=/tests/p",
            "--durations=10",
        ]
        argv = [sys.executable, "-m", "pytest", *options, *tests]
        timeout = SHORT_TIMEOUT if arguments.short else TIMEOUT
        return machine.run(argv, {VARIABLE: str(arguments.time_factor)}, timeout)
    except KernelUnavailableError as error:
        print(f"kernel run: skipped, {error}", file=sys.stderr)
        return 0 if arguments.short else 69
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/run --kernel",
        description="Run tests on a stock kernel of Debian, in QEMU. Other arguments are pytest's.",
    )
    parser.add_argument("--release", choices=RELEASES, default="bookworm", help="of Debian")
    parser.add_argument("--short", action="store_true", help="a few tests: what CI runs")
    parser.add_argument("--time-factor", type=float, default=TIME_FACTOR, metavar="FACTOR")
    return parser


def _skipped_here(*, short: bool) -> list[str]:
    """The tests that this kernel lacks a feature for. Raises SystemExit."""
    options = [ABSENT_OPTION, *([SHORT_OPTION] if short else [])]
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 5):  # 5: no test was collected
        sys.exit(f"kernel run: pytest can't collect the tests:\n{done.stdout}{done.stderr}")
    return [line for line in done.stdout.splitlines() if "::" in line]


if __name__ == "__main__":
    sys.exit(main())

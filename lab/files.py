# SPDX-License-Identifier: Apache-2.0
"""A lab's directory: the lock of the process that changes the lab, and the lab's state.

The state tells a lab that was made to the end from one whose maker died; the lock tells a
lab that is being made now from both.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from base import paths
from lab import hosts, processes
from lab.hosts import LabError, Names
from lab.spec import LabSpec

DIRECTORY = Path(paths.LAB_DIR)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class LabFiles:
    """The files of one lab."""

    directory: Path

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lab for this process; the kernel releases the lock when the process dies.

        Raises LabError when another process holds it.
        """
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock_path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(
                    f"lab {self.directory.name!r} is being changed by another process; "
                    "try again later"
                ) from None
            yield

    @property
    def lock_path(self) -> Path:
        """The file that is locked; it lies beside the directory, which comes and goes."""
        return self.directory.with_suffix(".lock")

    def write(self, spec: LabSpec, *, complete: bool) -> None:
        """Write the state; a reader sees the old one or the new one."""
        state = {
            "spec": asdict(spec),
            "complete": complete,
            "boot_id": BOOT_ID.read_text().strip(),
        }
        temporary = self.directory / "lab.json.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self.directory / "lab.json")

    def spec(self) -> LabSpec:
        """Read what the lab was made from. Raises LabError when there is no such lab."""
        name = self.directory.name
        try:
            state = json.loads((self.directory / "lab.json").read_text())
        except (OSError, ValueError):
            raise LabError(
                f"there is no lab {name!r}; make one with: flatmesh lab up --name {name}"
            ) from None
        return LabSpec(**state["spec"])

    def complete(self) -> bool:
        """Whether a lab is up here: made to the end, and since this machine's last boot."""
        with contextlib.suppress(OSError, ValueError):
            state = json.loads((self.directory / "lab.json").read_text())
            return bool(state["complete"] and state["boot_id"] == BOOT_ID.read_text().strip())
        return False

    def remove(self) -> None:
        """Remove the directory; one that is gone is no error."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    def remove_lock(self) -> None:
        """Remove the lock file, and with the last lab the directory of all labs."""
        with contextlib.suppress(OSError):
            self.lock_path.unlink()
        with contextlib.suppress(OSError):
            self.directory.parent.rmdir()


def lab_files(name: str, directory: Path = DIRECTORY) -> LabFiles:
    """Return the files of a lab. Raises LabError for a name that no lab can have."""
    Names(name)  # refuse a bad name before it becomes a path
    return LabFiles(directory / name)


def lab_names(directory: Path = DIRECTORY) -> list[str]:
    """Names of the labs that left a trace on this machine: files or namespaces."""
    found = {p.parent.name for p in directory.glob("*/lab.json")}
    for path in processes.NETNS_DIR.glob(f"{hosts.PREFIX}-*-net"):
        if lab := hosts.lab_of(path.name):
            found.add(lab)
    return sorted(found)

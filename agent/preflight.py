# SPDX-License-Identifier: Apache-2.0
"""What the daemon needs of this host before anything else: directories, and the port of /healthz.

`flatmeshd` makes the directories; `--dry-run` only looks whether that would be possible.
"""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agent.health import require_port
from agent.settings import Settings
from base.errors import FlatmeshError
from base.private_files import make_private_directory

LOCK_FILE = "flatmeshd.lock"
"""In the run directory; held by the daemon that runs."""


class SettingsError(FlatmeshError):
    """A flag's value can't be used on this host."""


def make_directory(flag: str, path: Path) -> None:
    """Make a directory of ours, or close it to others. Raises SettingsError."""
    with _explained(flag, path):
        make_private_directory(path)


def require_usable(settings: Settings) -> None:
    """Raise SettingsError, PortError for what the daemon could not start with; nothing is left."""
    for flag, directory in (
        ("--run-dir", settings.run_dir),
        ("--state-dir", settings.state_dir),
        ("--subnet-file", settings.subnet_file.parent),
    ):
        with _explained(flag, directory):
            _require_writable(directory)
    if settings.healthz_port and not _runs(settings.run_dir):
        require_port(settings.healthz_ip, settings.healthz_port)


@contextlib.contextmanager
def _explained(flag: str, path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise SettingsError(f"{flag} {path} is no directory: name another") from None
    except OSError as error:
        text = f"{flag} {path} can't be made or written: {error.strerror}"
        raise SettingsError(f"{text}; name a directory that can") from None


def _require_writable(directory: Path) -> None:
    """Try in the nearest parent that is there. Raises OSError."""
    there = next(one for one in (directory, *directory.absolute().parents) if one.exists())
    if not there.is_dir():
        raise FileExistsError
    Path(tempfile.mkdtemp(prefix=".flatmesh-try-", dir=there)).rmdir()


def _runs(run_dir: Path) -> bool:
    """Whether a daemon runs with this directory: then its port is in use by itself."""
    try:
        with (run_dir / LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False

# SPDX-License-Identifier: Apache-2.0
"""The user that etcd is told, and where the password comes from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from etcd.errors import EtcdAuthError

OTHERS = 0o077
"""Permissions of a group and of everybody."""

log = logging.getLogger("etcd.client")


@dataclass(slots=True)
class Login:
    """A user, with a password or the file that holds it; read anew for each login."""

    username: str
    known: str | None
    """The password itself; None: it is in the file."""
    file: Path | None = None
    _told: bool = field(default=False, init=False)

    def password(self) -> str:
        """Read the password; a line break at the end of the file is no part of it.

        Raises EtcdAuthError.
        """
        if self.known is not None or self.file is None:
            return self.known or ""
        try:
            text = self.file.read_text()
            mode = self.file.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no text"
            raise EtcdAuthError(f"--etcd-password-file {self.file}: {reason}") from None
        if mode & OTHERS and not self._told:
            self._told = True
            log.warning("others can read %s: chmod 600 it", self.file)
        return text.removesuffix("\n").removesuffix("\r")

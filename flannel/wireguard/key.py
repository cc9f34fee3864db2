# SPDX-License-Identifier: Apache-2.0
"""This host's WireGuard key: made once, kept in a file that only root reads.

    <state_dir>/wireguard.key        base64 as `wg genkey` prints it, mode 0600
    <state_dir>/wireguard.key.old    the key before it, until our lease says the new one
    <state_dir>/wireguard.rotate     if it exists: a new key is wanted

The key is replaced only on that request (`flatmesh wireguard rotate-key` makes it). A file that
can't be read or holds no key is an error and never a reason to make another key, because the
peers know the one that was in it.

A file is written under a temporary name, synced, and renamed: after a crash it holds the old
key or the new one. The request is deleted after the new key is in place: a crash in between
rotates once more, and no request is lost.

The peers know the key that our lease says; `known_as` finds it in either file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from base.errors import FlatmeshError
from base.private_files import make_private_directory
from hostnet.wireguard.state import clamped, key_bytes, key_text

FLANNELD_KEY = Path("/run/flannel/wgkey")  # or what WIREGUARD_KEY_FILE names


class WireguardKeyError(FlatmeshError, OSError):
    """A key file that can't be used; `str()` is one line with the mend."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])


@dataclass(frozen=True, slots=True)
class WireguardKey:
    """A private key, and the public one that belongs to it."""

    private: str = field(repr=False)
    public: str


def from_private(text: str) -> WireguardKey:
    """The pair of a private key in base64. Raises ValueError, which doesn't show the key."""
    raw = clamped(key_bytes(text))
    public = X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    return WireguardKey(key_text(raw), key_text(public))


def generate() -> WireguardKey:
    """A fresh pair."""
    return from_private(key_text(X25519PrivateKey.generate().private_bytes_raw()))


class KeyFile:
    """The key of the host whose state directory this is."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "wireguard.key"
        self.old = state_dir / "wireguard.key.old"
        self.request = state_dir / "wireguard.rotate"

    def read(self) -> WireguardKey | None:
        """The newest key, None when there is none. Raises WireguardKeyError."""
        return _read(self.path)

    def read_or_make(self, published: str | None = None) -> WireguardKey:
        """The newest key, made on the first call.

        `published` is the public key in our lease: where a flanneld ran on this host before
        us and its key file holds just that key, we go on with it, and no peer notices.
        Raises WireguardKeyError.
        """
        key = self.read()
        if key is None:
            key = _key_of_flanneld(published) or generate()
            _write(self.path, key)
        return key

    def known_as(self, published: str | None) -> WireguardKey | None:
        """The key whose public half is `published`; else the newest. Raises WireguardKeyError."""
        key = self.read()
        if key is None or key.public == published:
            return key
        old = _read(self.old)
        return old if old is not None and old.public == published else key

    @property
    def rotation_wanted(self) -> bool:
        """Whether somebody asked for a new key."""
        return self.request.exists()

    def ask_rotation(self) -> None:
        """Ask for a new key. Raises WireguardKeyError."""
        try:
            self.request.touch(mode=0o600)
        except OSError as error:
            raise WireguardKeyError(f"{self.request}: {error.strerror}") from None

    def rotate(self, published: str | None = None) -> WireguardKey:
        """Make a new key the newest, and delete the request for it.

        The one that the peers know, by `published`, is kept as the old one. Raises
        WireguardKeyError.
        """
        known = self.known_as(published)
        if known is not None:
            _write(self.old, known)
        key = generate()
        _write(self.path, key)
        self.request.unlink(missing_ok=True)
        return key

    def forget_old(self, published: str | None) -> None:
        """Delete the old key once our lease says the newest one. Raises WireguardKeyError."""
        if self.old.exists() and (key := self.read()) is not None and key.public == published:
            self.old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete keys and request. Raises OSError."""
        for path in (self.path, self.old, self.request):
            path.unlink(missing_ok=True)


def _read(path: Path) -> WireguardKey | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise WireguardKeyError(f"WireGuard key {path}: {reason}") from None
    try:
        return from_private(text)
    except ValueError as error:
        raise WireguardKeyError(
            f"WireGuard key {path} is {error}; restore the file, or delete it and a new key is made"
        ) from None


def _write(path: Path, key: WireguardKey) -> None:
    try:
        make_private_directory(path.parent)
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(fd, "w") as file:
                file.write(f"{key.private}\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise WireguardKeyError(f"WireGuard key {path}: {error.strerror}") from None


def _key_of_flanneld(published: str | None) -> WireguardKey | None:
    """The key of a flanneld that ran here before, if our lease says that very key."""
    if published is None:
        return None
    path = Path(os.environ.get("WIREGUARD_KEY_FILE") or FLANNELD_KEY)
    with contextlib.suppress(OSError, ValueError):
        key = from_private(path.read_text().strip())
        return key if key.public == published else None
    return None

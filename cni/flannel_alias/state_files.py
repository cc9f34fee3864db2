# SPDX-License-Identifier: Apache-2.0
"""What the `flannel` plugin keeps of each attachment: the config of its delegate.

A file in `dataDir`, until the delegate's DEL has succeeded, so that a DEL can be repeated. The
file is named by the container id, as the real meta-plugin names it; a second attachment of
one container has a longer name. The files of the real meta-plugin are read as well. They do
not name the interface, so GC leaves them alone.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni.config.call import AttachmentKey
from cni.config.flannel_config import DATA_DIR, parse_flannel_data_dir
from cni.config.request import CniRequest
from cni.errors import IO_FAILURE, CniError

OWNER = "flatmesh.attachment"
"""A key that only our files have: [network, container id, interface name]."""


def state_path(request: CniRequest, key: AttachmentKey) -> Path:
    """The file of an attachment, whether it exists or not. Raises CniError (5, 7)."""
    directory = parse_flannel_data_dir(request)
    plain = directory / key.container_id
    long = directory / f"{key.container_id}.{key.network}.{key.ifname}"
    if long.exists():
        return long
    state = _decode(plain)
    if state is None:
        return plain
    owner = state.get(OWNER)
    # all that a file without an owner says of its attachment is the network
    same = owner == list(key) if owner is not None else state.get("name") == key.network
    return plain if same else long


def state_path_of_delete(request: CniRequest, key: AttachmentKey) -> Path:
    """The file of an attachment, also where its network was renamed since, or the file is damaged.

    A config that names no directory which could be has no file. Raises CniError (5).
    """
    try:
        directory = parse_flannel_data_dir(request)
    except CniError:
        return Path(DATA_DIR) / key.container_id
    try:
        path = state_path(request, key)
    except CniError:
        return directory / key.container_id
    if path.exists():
        return path
    for other, owner in own_state_files(request, f"{key.container_id}*"):
        if (owner.container_id, owner.ifname) == (key.container_id, key.ifname):
            return other
    return path


def own_state_files(
    request: CniRequest, pattern: str = "[!.]*"
) -> list[tuple[Path, AttachmentKey]]:
    """The files that this plugin wrote, with their attachments. Raises CniError (5, 7)."""
    files = []
    directory = parse_flannel_data_dir(request)
    for path in sorted(directory.glob(pattern)) if directory.is_dir() else []:
        owner = (_decode(path) or {}).get(OWNER)
        if isinstance(owner, list) and len(owner) == 3:
            files.append((path, AttachmentKey(*owner)))
    return files


def read_state(path: Path) -> dict[str, Any] | None:
    """The delegate's config; None when there is no file. Raises CniError (5)."""
    state = _decode(path)
    if state is not None:
        state.pop(OWNER, None)
    return state


def write_state(path: Path, config: Mapping[str, Any], key: AttachmentKey) -> None:
    """Write the file atomically; it is on the disk on return. Raises CniError (5)."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump({**config, OWNER: list(key)}, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CniError(IO_FAILURE, f"{path}: {error.strerror}") from None


def _decode(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CniError(IO_FAILURE, f"{path}: {error.strerror}") from None
    try:
        state = json.loads(text)
    except ValueError:
        state = None
    if not isinstance(state, dict):
        raise CniError(IO_FAILURE, f"{path}: is no state file of flannel; remove it")
    return state

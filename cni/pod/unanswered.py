# SPDX-License-Identifier: Apache-2.0
"""The result of an ADD, kept until the runtime has it.

A client that is killed, or a daemon that dies behind its last step, loses the answer of an ADD
that was done. When the runtime repeats that ADD, it gets the same result instead of an error. A
second ADD after an answer is an error all the same, as the specification wants it.

One small file per ADD at work, in the run directory, which is in memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import TYPE_CHECKING

from base.paths import UNANSWERED_DIR
from base.private_files import make_private_directory
from cni.config.call import AttachmentKey
from cni.errors import CniError
from cni.pod.naming import host_interface_name
from cni.result.model import CniResult
from cni.result.read import read_result
from cni.result.render import render_result
from cni.versions import NEWEST

if TYPE_CHECKING:
    from cni.host import PluginHost


def keep(key: AttachmentKey, result: CniResult, host: PluginHost) -> None:
    """Keep the result of an ADD that is about to be ready; where that fails, it isn't kept.

    It is locked until `forget` or `release`, or the end of this process: it is not lost before.
    """
    text = json.dumps(render_result(result, NEWEST)).encode()
    path = _path(key, host)
    with contextlib.suppress(OSError):
        try:
            host.answers[path] = _write(path, text)
        except FileNotFoundError:
            make_private_directory(os.path.dirname(path))  # noqa: PTH120 - in each ADD
            host.answers[path] = _write(path, text)


def kept(key: AttachmentKey, host: PluginHost) -> CniResult | None:
    """The result that nobody got; None when there is none, or when it is on its way."""
    try:
        descriptor = os.open(_path(key, host), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return read_result(json.loads(os.read(descriptor, os.fstat(descriptor).st_size)))
    except (OSError, ValueError, CniError):
        return None
    finally:
        os.close(descriptor)


def forget(key: AttachmentKey, host: PluginHost) -> None:
    """The result has arrived, or the attachment is gone."""
    with contextlib.suppress(OSError):
        os.unlink(_path(key, host))  # noqa: PTH108 - in each call: pathlib costs as much again
    release(key, host)


def release(key: AttachmentKey, host: PluginHost) -> None:
    """The result can't be delivered: the same ADD may have it."""
    descriptor = host.answers.pop(_path(key, host), None)
    if descriptor is not None:
        os.close(descriptor)


def _path(key: AttachmentKey, host: PluginHost) -> str:
    return f"{host.run_dir}/{UNANSWERED_DIR}/{host_interface_name(key)}"


def _write(path: str, data: bytes) -> int:
    """Write and lock the file; returns its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, data)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

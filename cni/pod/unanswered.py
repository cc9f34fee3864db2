"""The result of an ADD, kept until the runtime has it.

A client that is killed, or a daemon that dies behind its last step, loses the answer of an ADD
that was done. When the runtime repeats that ADD, it gets the same result instead of an error. A
second ADD after an answer is an error all the same, as the specification wants it.

One small file per ADD at work, in the run directory, which is in memory.
"""

from __future__ import annotations

import contextlib
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
    """Keep the result of an ADD that is about to be ready; where that fails, it isn't kept."""
    text = json.dumps(render_result(result, NEWEST)).encode()
    path = _path(key, host)
    with contextlib.suppress(OSError):
        try:
            _write(path, text)
        except FileNotFoundError:
            make_private_directory(os.path.dirname(path))  # noqa: PTH120 - in each ADD
            _write(path, text)


def kept(key: AttachmentKey, host: PluginHost) -> CniResult | None:
    """The result that nobody got; None when there is none."""
    try:
        with open(_path(key, host), "rb") as file:  # noqa: PTH123 - pathlib costs as much again
            return read_result(json.loads(file.read()))
    except (OSError, ValueError, CniError):
        return None


def forget(key: AttachmentKey, host: PluginHost) -> None:
    """The result has arrived, or the attachment is gone."""
    with contextlib.suppress(OSError):
        os.unlink(_path(key, host))  # noqa: PTH108 - in each call: pathlib costs as much again


def _path(key: AttachmentKey, host: PluginHost) -> str:
    return f"{host.run_dir}/{UNANSWERED_DIR}/{host_interface_name(key)}"


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)

# SPDX-License-Identifier: Apache-2.0
"""From a call to its answer: shared by the daemon and by the executable without a daemon.

The answer is an exit status and one JSON document for stdout; every fault becomes an error
object (CNI SPEC 1.1.0, section 5).
"""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, NamedTuple

from base.errors import FlatmeshError
from cni import versions
from cni.config.call import AttachmentKey, CniCall
from cni.config.request import CniRequest, parse_request, stated_version
from cni.errors import (
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    NETWORK_FAILURE,
    CniError,
    RunInClientError,
)
from cni.plugin import run_command
from cni.plugin_table import PLUGINS
from cni.result.render import render_result

if TYPE_CHECKING:
    from cni.host import PluginHost


NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


class CniResponse(NamedTuple):
    """What the executable shall print, and its exit status."""

    status: int
    stdout: bytes
    added: AttachmentKey | None = None
    """The attachment of an ADD that was done: `answered` is called when the answer is out."""
    no_descriptors: bool = False
    """Whether it failed because this process may open no more: another one can do it."""


def handle(call: CniCall, host: PluginHost) -> CniResponse:
    """Answer a call. Raises RunInClientError and nothing else; any thread may call it."""
    try:
        _require_plugin(call.plugin)
        request = parse_request(call)
        added = request.attachment if request.command == "ADD" else None
        return CniResponse(0, _run(request, host), added)
    except CniError as error:
        return _refuse(call, error)
    except RunInClientError:
        raise
    except OSError as error:  # netlink errors are OSErrors whose text is the kernel's reason
        netlink = hasattr(error, "operation")
        refused = _refuse(call, CniError(NETWORK_FAILURE if netlink else IO_FAILURE, str(error)))
        return refused._replace(no_descriptors=error.errno in NO_DESCRIPTORS)
    except FlatmeshError as error:
        return _refuse(call, CniError(NETWORK_FAILURE, str(error)))
    except Exception as error:
        import logging  # noqa: PLC0415 - 10 ms, which only a fault of the program costs

        logging.getLogger("cni").exception("%s", call.plugin)
        message = f"fault in flatmesh: {type(error).__name__}: {error}"
        return _refuse(call, CniError(NETWORK_FAILURE, message))


def answered(response: CniResponse, host: PluginHost) -> None:
    """The answer is out: the same ADD is refused from now on. Any thread may call it."""
    if response.added is not None:
        from cni.pod import unanswered  # noqa: PLC0415 - 10 ms, which VERSION need not pay

        unanswered.forget(response.added, host)


def unanswerable(response: CniResponse, host: PluginHost) -> None:
    """The answer can't be delivered: the same ADD gets it. Any thread may call it."""
    if response.added is not None:
        from cni.pod import unanswered  # noqa: PLC0415 - see answered

        unanswered.release(response.added, host)


def _refuse(call: CniCall, error: CniError) -> CniResponse:
    """The error as an answer in the request's version."""
    return CniResponse(1, _encode(error.as_dict(stated_version(call.stdin))))


def _encode(body: dict[str, object]) -> bytes:
    return json.dumps(body).encode() + b"\n"


def _require_plugin(name: str) -> None:
    if name not in PLUGINS:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"no plugin is called {name!r}; this program is one of {', '.join(PLUGINS)}",
        )


def _run(request: CniRequest, host: PluginHost) -> bytes:
    if request.command == "VERSION":
        supported = list(versions.SUPPORTED)
        return _encode({"cniVersion": request.version, "supportedVersions": supported})
    result = run_command(PLUGINS[request.call.plugin](), request, host)
    return b"" if result is None else _encode(render_result(result, request.version))

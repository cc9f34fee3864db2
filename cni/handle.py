"""From a call to its answer: what the daemon and the executable without a daemon share.

Nothing leaves here but an exit status and one JSON document for stdout; every fault becomes
an error object (CNI SPEC 1.1.0, section 5). The plugins' modules are loaded when they are
first called: a process that answers one call pays for one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from cni import versions
from cni.errors import (
    INVALID_ENVIRONMENT,
    IO_FAILURE,
    NETWORK_FAILURE,
    CniError,
    RunInClientError,
)
from cni.plugin import run_command
from cni.plugin_table import PLUGINS
from cni.request import Call, Request, parse, stated_version

if TYPE_CHECKING:
    from cni.host import Host


class Response(NamedTuple):
    """What the executable shall print, and its exit status."""

    status: int
    stdout: bytes


def handle(call: Call, host: Host) -> Response:
    """Answer a call. Raises RunInClientError and nothing else."""
    try:
        _require_plugin(call.plugin)
        return Response(0, _run(parse(call), host))
    except CniError as error:
        return refuse(call, error)
    except RunInClientError:
        raise
    except OSError as error:  # netlink errors are OSErrors whose text is the kernel's reason
        netlink = hasattr(error, "operation")
        return refuse(call, CniError(NETWORK_FAILURE if netlink else IO_FAILURE, str(error)))
    except Exception as error:
        import logging  # noqa: PLC0415 - 10 ms that nobody pays who meets no fault

        logging.getLogger("cni").exception("%s", call.plugin)
        message = f"fault in flatmesh: {type(error).__name__}: {error}"
        return refuse(call, CniError(NETWORK_FAILURE, message))


def refuse(call: Call, error: CniError) -> Response:
    """Turn an error into an answer in the request's version."""
    body = error.as_dict(stated_version(call.stdin))
    return Response(1, json.dumps(body).encode() + b"\n")


def _require_plugin(name: str) -> None:
    if name not in PLUGINS:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"no plugin is called {name!r}; this program is one of {', '.join(PLUGINS)}",
        )


def _run(request: Request, host: Host) -> bytes:
    if request.command == "VERSION":
        answer = {"cniVersion": request.version, "supportedVersions": list(versions.SUPPORTED)}
        return json.dumps(answer).encode() + b"\n"
    result = run_command(PLUGINS[request.call.plugin](), request, host)
    if result is None:
        return b""
    return json.dumps(result.as_dict(request.version)).encode() + b"\n"

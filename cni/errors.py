# SPDX-License-Identifier: Apache-2.0
"""The error codes of the CNI specification, and the exception that carries one.

Whoever finds a fault raises `CniError` with the code of the specification and one line of text:
what is wrong, where, and what to do about it. `cni.handle` turns it into the error object on
stdout (CNI SPEC 1.1.0, section 5, "Error").
"""

from __future__ import annotations

from typing import Any

from base.errors import FlatmeshError

INCOMPATIBLE_VERSION = 1  # the config's cniVersion is none of those supported
UNSUPPORTED_FIELD = 2  # the message holds the key and its value
UNKNOWN_CONTAINER = 3  # the runtime has nothing to clean up
INVALID_ENVIRONMENT = 4  # the message names every wrong variable
IO_FAILURE = 5  # a file, or the address store, could not be read or written
DECODING_FAILURE = 6  # what came on stdin, or a prevResult, is not the JSON it must be
INVALID_CONFIG = 7  # the message names the key of the config
SAME_NETNS = 8  # libcni's ErrInvalidNetNS: CNI_NETNS is the host's own namespace
TRY_AGAIN_LATER = 11  # the host is busy; the same call may succeed in a moment
NOT_AVAILABLE = 50  # STATUS: no ADD can be served now
NOT_AVAILABLE_AND_PODS_AFFECTED = 51  # STATUS: and running pods may have lost connectivity
# 100 and above are a plugin's own.
NETWORK_FAILURE = 100  # the kernel refused a change, and no code of the specification fits
NO_ADDRESS = 101  # no address is free, or the requested one is taken
ATTACHMENT_EXISTS = 102  # the interface, or the attachment, exists already
CHECK_FAILED = 103  # CHECK found something else than ADD made
DELEGATE_FAILURE = 104  # a delegated plugin could not be run, or answered no JSON


class CniError(FlatmeshError):
    """A fault with its code; `str()` is the message."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def as_dict(self, version: str) -> dict[str, Any]:
        """The error object of the specification; `version` is the request's cniVersion."""
        error: dict[str, Any] = {"cniVersion": version, "code": self.code, "msg": self.message}
        if self.details:
            error["details"] = self.details
        return error


class RunInClientError(Exception):
    """The call must be answered in the client's own process, not in the daemon's.

    Raised before anything is changed, when a delegated plugin would find other files in the
    daemon's mount namespace than in the runtime's. Not an error for the operator: the socket
    server turns it into an answer of the protocol.
    """

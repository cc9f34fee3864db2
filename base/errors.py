# SPDX-License-Identifier: Apache-2.0
"""The base of every error that is told to the operator.

A subclass says what went wrong and where; its text is one line: what, where, and the mend.
Commands print that line and exit with 1; the daemon logs it and tries again. What is not a
`FlatmeshError` or an `OSError` is a fault of the program and keeps its traceback.

A subclass that stands for a refused system call derives from `OSError` too, so that `errno`
stays readable:

    class NetlinkError(FlatmeshError, OSError): ...
"""

from __future__ import annotations


class FlatmeshError(Exception):
    """A problem with one line of text for the operator."""


PACKAGES = {"ip": "iproute2", "bridge": "iproute2", "etcd": "etcd-server", "nft": "nftables"}
"""Debian's packages of programs."""


def one_line(error: BaseException) -> str:
    """An error as one line: what, and where."""
    name = getattr(error, "filename", None)
    if isinstance(error, FlatmeshError) or not isinstance(error, OSError) or name is None:
        return " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and "/" not in str(name):
        package = PACKAGES.get(str(name), str(name))
        return f"program {name} is not installed (Debian: apt-get install {package})"
    return f"{name}: {error.strerror}"

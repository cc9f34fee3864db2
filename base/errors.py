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

"""Errors whose message is written for the operator: shown as one line, without a traceback."""

from __future__ import annotations

from base.errors import FlatmeshError

USER_ERRORS = (FlatmeshError, PermissionError)


def one_line(error: BaseException) -> str:
    """Fold a message into one line."""
    return " ".join(str(error).split()) or type(error).__name__

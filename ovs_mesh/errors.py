# SPDX-License-Identifier: Apache-2.0
"""The base of what can go wrong with Open vSwitch."""

from __future__ import annotations

from base.errors import FlatmeshError


class OvsError(FlatmeshError, OSError):
    """Open vSwitch does not answer, or refuses; the message is one line."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[-1])

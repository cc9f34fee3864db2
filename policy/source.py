# SPDX-License-Identifier: Apache-2.0
"""What a source of policies, pods and namespaces offers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from policy.model import PolicyChanges


class PolicySource(Protocol):
    """All policies, pods and namespaces of a cluster, seen from one of its hosts."""

    @property
    def node(self) -> str:
        """The host's name, as pods name the host that they run on."""

    def changes(self) -> AsyncIterator[PolicyChanges]:
        """Yield everything that there is at once (`whole`), then what changes; never ends.

        Trouble with the server is the source's to mend; what is known stays good meanwhile.
        """

    def problem(self) -> str | None:
        """Why changes are not heard of now, as one line; None where they are."""

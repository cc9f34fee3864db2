# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with the API server, each as one line."""

from __future__ import annotations

from base.errors import FlatmeshError


class KubeError(FlatmeshError):
    """The API server can't be asked, or has refused."""


class KubeSettingsError(KubeError):
    """A kubeconfig, a service account or a flag that can't be used."""


class KubeUnavailableError(KubeError):
    """The API server does not answer now."""


class GoneError(KubeError):
    """A watch is asked for from a version that the API server no longer has: list again."""


class NotFoundError(KubeError):
    """There is no such object."""


class BrokenObjectError(KubeError):
    """An object that lacks what we need, or has it in another form."""

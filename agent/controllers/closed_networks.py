# SPDX-License-Identifier: Apache-2.0
"""Networks that the cluster had before, which stay closed to clear text while pods have addresses.

A daemon that is started after the cluster's Network was changed reads here which networks the one
before had closed. The file is in the run directory: a reboot ends all pods.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from base.errors import FlatmeshError
from base.paths import ADDRESS_STORE, CLOSED_NETWORKS
from base.private_files import write_private
from cni.attachment.store import AttachmentStore
from cni.host import PluginHost

log = logging.getLogger("agent.encryption")
Network = IPv4Network | IPv6Network


class ClosedNetworks:
    """The networks that are closed, for the next daemon."""

    def __init__(self, host: PluginHost) -> None:
        """Take the host, whose records tell which addresses pods have."""
        self._host = host
        self._file = host.run_dir / CLOSED_NETWORKS
        self._written: list[Network] | None = None

    def still_used(self) -> list[Network]:
        """Those of the file that pods of this host have addresses of."""
        found: list[Network] = []
        with contextlib.suppress(OSError):
            for line in self._file.read_text().split():
                with contextlib.suppress(ValueError):
                    found.append(ip_network(line))
        if not found:
            return []
        try:
            used = self._addresses()
        except FlatmeshError as problem:  # better one network too many
            log.warning("networks that were closed to clear text all stay so: %s", problem)
            return found
        return [one for one in found if any(ip_address(text) in one for text in used)]

    def _addresses(self) -> set[str]:
        if not (self._host.state_dir / ADDRESS_STORE).exists():
            return set()  # no pod yet; to ask would make the file
        records = AttachmentStore(self._host).records()
        given = [ip for record in records for ip in (*record.ips, *record.metadata.get("ips", ()))]
        return {str(ip).partition("/")[0] for ip in given}

    def write(self, networks: Sequence[Network]) -> None:
        """Replace the file, where they differ. That it can't be written is logged."""
        if self._written == [*networks]:
            return
        try:
            if networks:
                write_private(self._file, "".join(f"{one}\n" for one in networks))
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be written: %s", self._file, error.strerror)
        else:
            self._written = [*networks]

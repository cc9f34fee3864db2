# SPDX-License-Identifier: Apache-2.0
"""How managers reach a worker: what its key in etcd says."""

from __future__ import annotations

from dataclasses import dataclass

from etcd.client import Etcd
from scheduler.errors import NotFoundError, SpecError
from scheduler.store import codec
from scheduler.store.keys import Keys


@dataclass(frozen=True, slots=True)
class WorkerContact:
    """A worker's address, and how the two know each other."""

    url: str
    token: str
    fingerprint: str
    """SHA-256 of its certificate, hexadecimal."""

    def encode(self) -> bytes:
        """As the key holds it."""
        return codec.dumps({"URL": self.url, "Token": self.token, "SHA256": self.fingerprint})

    @classmethod
    def decode(cls, value: bytes) -> WorkerContact:
        """Read it. Raises SpecError."""
        given = codec.loads(value)
        try:
            return cls(str(given["URL"]), str(given["Token"]), str(given["SHA256"]))
        except (KeyError, TypeError) as error:
            raise SpecError(f"a worker's contact: {error!r}") from None


async def find_worker(etcd: Etcd, keys: Keys, node: str) -> WorkerContact:
    """The contact of a node's worker. Raises NotFoundError: it is silent; EtcdError."""
    found, _ = await etcd.get(keys.worker(node))
    if found is None:
        raise NotFoundError(f"node {node} is silent: output of its tasks can't be read now")
    return WorkerContact.decode(found.value)

# SPDX-License-Identifier: Apache-2.0
"""Objects that users make: created with a claim on their name, changed by compare-and-put.

Each function is one transaction. The front uses them; tests and benchmarks, too.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from etcd.client import Etcd, Transaction
from scheduler.errors import ConflictError, OutOfDateError
from scheduler.model.base import Document
from scheduler.model.service import Service, ServiceSpec, UpdateStatus
from scheduler.store import codec
from scheduler.store.keys import Keys

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id() -> str:
    """25 characters, as Docker's ids of services, nodes and tasks."""
    number = secrets.randbits(128)
    digits = []
    for _ in range(25):
        number, digit = divmod(number, 36)
        digits.append(ALPHABET[digit])
    return "".join(digits)


def timestamp() -> str:
    """Now, as Docker writes times."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Documents:
    """Writes below one prefix."""

    etcd: Etcd
    keys: Keys

    async def create(
        self, kind: str, name: str, key: str, document: Document, more: Mapping[str, bytes]
    ) -> int:
        """Write a new object with a claim on its name; `more` keys in the same step.

        Returns its version. Raises ConflictError: the name is taken; EtcdError.
        """
        object_id = key.rpartition("/")[2]
        claim = self.keys.name(kind, name)
        value = codec.encode(document)
        transaction = Transaction(
            unchanged={claim: 0, key: 0}, put={claim: object_id.encode(), key: value, **more}
        )
        done = await self.etcd.commit(transaction)
        if done is not None:
            return done
        found, _ = await self.etcd.get(key)
        if found is not None and found.value == value:
            return found.mod_revision  # a first try did it, and its answer got lost
        raise ConflictError(f"{kind} {name}: there is one with this name already: choose another")

    async def replace(self, key: str, document: Document, version: int) -> int:
        """Write an object again if its version is still this one; returns the new version.

        Raises OutOfDateError, EtcdError.
        """
        done = await self.etcd.put_if(key, codec.encode(document), mod_revision=version)
        if done is None:
            raise OutOfDateError("update out of sequence: it was changed since; read it again")
        return done

    async def remove(self, kind: str, name: str, key: str, *below: str) -> None:
        """Remove an object, its name and everything below some prefixes. Raises EtcdError."""
        claim = self.keys.name(kind, name)
        await self.etcd.commit(Transaction(delete=[key, claim], delete_below=below))

    async def create_service(self, spec: ServiceSpec) -> Service:
        """Make a service. Raises ConflictError, EtcdError."""
        now = timestamp()
        service = Service(id=new_id(), spec=spec, spec_version=1, created_at=now, updated_at=now)
        template = codec.encode(spec.task_template)
        await self.create(
            "service",
            spec.name,
            self.keys.service(service.id),
            service,
            {self.keys.spec(service.id, 1): template},
        )
        return service

    async def update_service(self, service: Service, spec: ServiceSpec, version: int) -> Service:
        """Give a service another spec; a changed template starts an update.

        Raises OutOfDateError, ConflictError (it can't be renamed), EtcdError.
        """
        if spec.name != service.name:
            raise ConflictError(f"service {service.name}: it can't be renamed: make a new one")
        updated = next_version(service, spec)
        key = self.keys.service(service.id)
        put = {key: codec.encode(updated)}
        if updated.spec_version != service.spec_version:
            template = codec.encode(spec.task_template)
            put[self.keys.spec(service.id, updated.spec_version)] = template
        done = await self.etcd.commit(Transaction(unchanged={key: version}, put=put))
        if done is None:
            found, _ = await self.etcd.get(key)
            if found is None or found.value != put[key] or found.mod_revision <= version:
                raise OutOfDateError(
                    f"service {service.name}: update out of sequence: it was changed since; "
                    "read it again"
                )
        return updated


def next_version(service: Service, spec: ServiceSpec, *, rollback: bool = False) -> Service:
    """The service with another spec, and an update that begins where tasks must change. Pure."""
    changed = spec.task_template != service.spec.task_template
    status = service.update_status
    if changed:
        state = "rollback_started" if rollback else "updating"
        message = "rollback in progress" if rollback else "update in progress"
        status = UpdateStatus.model_validate(
            {"State": state, "StartedAt": timestamp(), "Message": message}
        )
    number = service.spec_version
    if changed:
        number = max(service.spec_version, service.previous_spec_version) + 1
        before = service.previous_spec
        if before is not None and before.task_template == spec.task_template:
            number = service.previous_spec_version  # tasks that have it are up to date
    return service.changed(
        spec=spec,
        spec_version=number,
        previous_spec=service.spec,
        previous_spec_version=service.spec_version,
        update_status=status,
        updated_at=timestamp(),
    )

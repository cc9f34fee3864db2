# SPDX-License-Identifier: Apache-2.0
"""How Docker writes JSON, and how it is read here.

Fields have Docker's names (`NanoCPUs`) in JSON and ours (`nano_cpus`) in Python. Go writes null and
empty values for what is not set: they count as absent. A field that is unknown and says something
is refused by its path, as what isn't supported must not be ignored silently.
"""

from __future__ import annotations

from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from scheduler.errors import SpecError

UNUSUAL = {
    "id": "ID",
    "uid": "UID",
    "gid": "GID",
    "os": "OS",
    "cpus": "CPUs",
    "tty": "TTY",
    "dns": "DNS",
    "url": "URL",
    "ip": "IP",
    "tls": "TLS",
}
"""Parts of names that Docker writes in capitals."""
WHOLE = {"open_stdin": "OpenStdin", "health_check": "Healthcheck"}


def docker_name(name: str) -> str:
    """A field's name in Docker's JSON."""
    if name in WHOLE:
        return WHOLE[name]
    return "".join(UNUSUAL.get(part, part.capitalize()) for part in name.split("_"))


class Document(BaseModel):
    """A JSON object with Docker's field names."""

    model_config = ConfigDict(
        alias_generator=docker_name, populate_by_name=True, extra="forbid", frozen=True
    )

    @model_validator(mode="before")
    @classmethod
    def _without_unset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        known = {field.alias for field in cls.model_fields.values()} | cls.model_fields.keys()
        return {
            key: value
            for key, value in given.items()
            if value is not None and (key in known or not is_unset(value))
        }

    def document(self) -> dict[str, Any]:
        """As JSON has it; what was never set is left out."""
        return self.model_dump(by_alias=True, exclude_unset=True, mode="json")

    def changed(self, **fields: Any) -> Self:
        """A copy with other values of some fields (Python names)."""
        return self.model_copy(update=fields)


Model = TypeVar("Model", bound=Document)


def is_unset(value: object) -> bool:
    """Whether Go's zero value of a field is meant, also of a struct whose fields are all zero."""
    if isinstance(value, dict):
        return all(is_unset(one) for one in value.values())
    return not value or value == "default"


def parse(model: type[Model], given: object) -> Model:
    """Read a JSON value. Raises SpecError, which names the first wrong field."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or model.__name__
        if first["type"] == "extra_forbidden":
            raise SpecError(f"{where} is not supported: leave it out") from None
        raise SpecError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None

# SPDX-License-Identifier: Apache-2.0
"""What a service's spec must satisfy beyond its fields' types, and its defaults. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from scheduler.errors import ConflictError, SpecError
from scheduler.model.container import ContainerSpec
from scheduler.model.service import Mode, PortConfig, Replicated, ServiceSpec
from scheduler.placement.demand import demand_of
from scheduler.store.view import ClusterView

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
MAX_NAME = 63
CHECKS = ("", "NONE", "CMD", "CMD-SHELL", "HTTP", "TCP")
UNSUPPORTED = {
    "sysctls": "Sysctls (--sysctl)",
    "ulimits": "Ulimits (--ulimit)",
    "open_stdin": "OpenStdin (--interactive)",
}
"""Fields that the model has, and no runtime: better refused now than by each task."""


def require_name(name: str, what: str) -> None:
    """Raise SpecError unless it can be an object's name."""
    if len(name) > MAX_NAME or NAME.fullmatch(name) is None:
        raise SpecError(
            f"{what} name {name[:80]!r}: 1 to {MAX_NAME} letters, digits, and between them . _ -"
        )


def completed(spec: ServiceSpec, name: str) -> ServiceSpec:
    """The spec with a name and a mode, which clients may leave out."""
    mode = spec.mode
    modes = mode.replicated, mode.global_, mode.replicated_job, mode.global_job
    uncounted = mode.replicated is not None and "replicas" not in mode.replicated.model_fields_set
    if uncounted or all(one is None for one in modes):
        spec = spec.changed(mode=Mode(replicated=Replicated(replicas=1)))
    if sum(one is not None for one in modes) > 1:
        raise SpecError("Mode: more than one mode is given")
    return spec if spec.name else spec.changed(name=name)


def require_possible(spec: ServiceSpec, view: ClusterView, networks: Collection[str]) -> None:
    """Raise SpecError, ConflictError where no task of the service could ever run."""
    require_name(spec.name, "service")
    template = spec.task_template
    for container in (template.container_spec, *template.sidecars):
        require_container(container, view)
    if not template.container_spec.image:
        raise SpecError("ContainerSpec.Image: an image must be given")
    demand_of("", template, spec)  # constraints, preferences and labels of placement
    for attachment in (*spec.networks, *template.networks):
        if attachment.target not in networks:
            raise SpecError(f"network {attachment.target} is not there: create it first")
    _require_ports(spec, view)


def require_container(container: ContainerSpec, view: ClusterView) -> None:
    """Raise SpecError where a container of a task could not be made."""
    for field, shown in UNSUPPORTED.items():
        if getattr(container, field):
            raise SpecError(f"ContainerSpec.{shown} is not supported: leave it out")
    check = container.health_check
    if check is not None and check.test and check.test[0] not in CHECKS:
        raise SpecError(f"Healthcheck.Test: {check.test[0]!r} is none of {', '.join(CHECKS[1:])}")
    for secret in container.secrets:
        if secret.secret_id not in view.secrets:
            raise SpecError(f"secret {secret.secret_name or secret.secret_id} is not there")
    for config in container.configs:
        if config.config_id not in view.configs:
            raise SpecError(f"config {config.config_name or config.config_id} is not there")


def _require_ports(spec: ServiceSpec, view: ClusterView) -> None:
    mine = set[tuple[str, int]]()
    for port in spec.endpoint_spec.ports:
        if spec.endpoint_spec.mode == "dnsrr" and port.publish_mode == "ingress":
            raise SpecError("EndpointSpec: a port in mode ingress needs the endpoint mode vip")
        if port.published_port:
            if (port.protocol, port.published_port) in mine:
                raise SpecError(f"port {port.published_port}/{port.protocol} is published twice")
            mine.add((port.protocol, port.published_port))
    for other in view.services.values():
        if other.name == spec.name:
            continue
        taken = {(port.protocol, port.published_port) for port in ingress_ports(other.spec)}
        for port in ingress_ports(spec):
            if (port.protocol, port.published_port) in taken:
                raise ConflictError(
                    f"port {port.published_port}/{port.protocol} is already in use by service "
                    f"{other.name}"
                )


def ingress_ports(spec: ServiceSpec) -> Iterator[PortConfig]:
    """Ports that the user chose to be published on every node."""
    for port in spec.endpoint_spec.ports:
        if port.publish_mode == "ingress" and port.published_port:
            yield port

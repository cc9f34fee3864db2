# SPDX-License-Identifier: Apache-2.0
"""Pods and containers as CRI's messages. Pure, but for the files that a container is given."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.runtime.containerd import cri_pb2 as pb
from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.protocol import ContainerConfig, PodConfig

NODE_LABEL = "flatmesh-scheduler/node"
POD_LABEL = "flatmesh-scheduler/pod"
STOP_SIGNAL = "flatmesh-scheduler/stop-signal"
LOG_BYTES, LOG_FILES = "flatmesh-scheduler/log-bytes", "flatmesh-scheduler/log-files"
USER_LABEL = "flatmesh-scheduler.label/"
NAMESPACE = "flatmesh-scheduler"
PROTOCOLS = {"tcp": 0, "udp": 1, "sctp": 2}
SHARED, OWN, HOST = 0, 1, 2
"""CRI's modes of a namespace: the pod's, the container's, the node's."""
CPU_PERIOD = 100_000


def sandbox(pod: PodConfig, node: str, log_directory: str, cgroup: str) -> pb.PodSandboxConfig:
    """The pod without its containers."""
    annotations = {f"{USER_LABEL}{k}": v for k, v in pod.labels.items()}
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=pod.name, uid=pod.id, namespace=NAMESPACE),
        hostname="" if pod.host_network else pod.hostname or pod.id[:12],
        log_directory=log_directory,
        dns_config=pb.DNSConfig(
            servers=pod.dns.servers, searches=pod.dns.search, options=pod.dns.options
        )
        if pod.dns.servers or pod.dns.search or pod.dns.options
        else None,
        port_mappings=[
            pb.PortMapping(
                protocol=PROTOCOLS[p.protocol],
                container_port=p.container_port,
                host_port=p.host_port,
            )
            for p in pod.ports
        ],
        labels={NODE_LABEL: node, POD_LABEL: pod.id},
        annotations=annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=cgroup,
            security_context=pb.LinuxSandboxSecurityContext(
                namespace_options=pb.NamespaceOption(
                    network=HOST if pod.host_network else SHARED, pid=OWN
                )
            ),
        ),
    )


def container(
    config: ContainerConfig, pod: PodConfig, node: str, mounts: Sequence[pb.Mount]
) -> pb.ContainerConfig:
    """One container of it. Raises RuntimeCallError for what CRI can't say."""
    limits = config.limits
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=config.name),
        image=pb.ImageSpec(image=config.image),
        command=config.command,
        args=config.args,
        working_dir=config.workdir,
        envs=[
            pb.KeyValue(key=name, value=value)
            for name, equals, value in (e.partition("=") for e in config.env)
            if equals
        ],
        mounts=mounts,
        labels={NODE_LABEL: node, POD_LABEL: pod.id},
        annotations={
            STOP_SIGNAL: config.stop_signal,
            LOG_BYTES: str(config.log.max_bytes),
            LOG_FILES: str(config.log.max_files),
        },
        log_path=f"{config.name}.log",
        tty=config.tty,
        linux=pb.LinuxContainerConfig(
            resources=pb.LinuxContainerResources(
                cpu_period=CPU_PERIOD if limits.nano_cpus else 0,
                cpu_quota=max(1000, limits.nano_cpus * CPU_PERIOD // 10**9)
                if limits.nano_cpus
                else 0,
                memory_limit_in_bytes=limits.memory,
            ),
            security_context=_security(config, pod),
        ),
    )


def _security(config: ContainerConfig, pod: PodConfig) -> pb.LinuxContainerSecurityContext:
    user, _, group = config.user.partition(":")
    groups = (*config.groups, *((group,) if group else ()))
    if any(not g.isdigit() for g in groups):
        raise RuntimeCallError(
            f"group {groups[0]!r}: the runtime `containerd` takes numbers of groups only"
        )
    return pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=[c.upper().removeprefix("CAP_") for c in config.cap_add],
            drop_capabilities=[c.upper().removeprefix("CAP_") for c in config.cap_drop],
        ),
        namespace_options=pb.NamespaceOption(
            network=HOST if pod.host_network else SHARED,
            # with `init` the sandbox's first process is the containers', too, and reaps orphans
            pid=SHARED if config.init else OWN,
        ),
        run_as_user=pb.Int64Value(value=int(user)) if user.isdigit() else None,
        run_as_username="" if user.isdigit() else user,
        run_as_group=pb.Int64Value(value=int(group)) if group else None,
        supplemental_groups=[int(g) for g in config.groups],
        readonly_rootfs=config.read_only,
    )

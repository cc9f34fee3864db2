# SPDX-License-Identifier: Apache-2.0
"""`flatmesh docker-options`: what makes Docker's default bridge be kbr0, with addresses of its own.

Docker gives the addresses of its default bridge itself, from a part of this host's lease. That part
is recorded (`cni.set_aside`), so that no pod gets one of them; it is the upper half, or less, which
pods would get last.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import click

from agent.settings import boolean
from base.command_line import Choice, explained
from base.errors import FlatmeshError
from base.paths import ADDRESS_STORE, DOCKER_FILE, RUN_DIR, STATE_DIR, SUBNET_FILE
from base.private_files import make_private_directory, write_private
from cni.address_pool import read_subnet_env
from cni.config.bridge_config import DEFAULT_BRIDGE
from cni.pod.attach_mode import AttachMode
from cni.pod.naming import FOUND
from ipam.address_store import AddressStore
from ipam.subnet_env import SubnetEnv

DAEMON_FILE = "/etc/docker/daemon.json"
PARTS = {"half": 1, "quarter": 2, "eighth": 3}
"""Bits that the prefix of the part is longer."""
MIN_HOST_BITS = 2
OURS = ("bridge", "fixed-cidr", "ipv6", "fixed-cidr-v6", "mtu", "ip-masq", "iptables")
"""Keys of daemon.json that are written or taken away here."""
REFUSED = ("bip", "default-gateway", "default-gateway-v6")
"""Keys that dockerd refuses beside `bridge`, or that would lead packets away from it."""

Part = IPv4Network | IPv6Network


class DockerOptionsError(FlatmeshError):
    """Docker can't be on kbr0 as asked; one line."""


@dataclass(frozen=True, slots=True)
class DaemonFile:
    """daemon.json: only our keys change."""

    path: Path

    def change(self, ours: Mapping[str, object]) -> bool:
        """Put these keys in place of all of `OURS`; whether that changed it. Raises OSError."""
        before = self._read()
        for key in REFUSED if ours else ():
            if key in before:
                raise DockerOptionsError(
                    f"{self.path}: dockerd can't have {key} beside bridge; remove the key"
                )
        after = {key: value for key, value in before.items() if key not in OURS} | dict(ours)
        if after == before:
            return False
        path = self.path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(json.dumps(after, indent=4) + "\n")
        temporary.chmod(mode)
        temporary.replace(path)
        return True

    def _read(self) -> dict[str, object]:
        try:
            read = json.loads(self.path.read_text() or "{}")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DockerOptionsError(f"{self.path}: no JSON: {error}; mend it first") from None
        if not isinstance(read, dict):
            raise DockerOptionsError(f"{self.path}: is no JSON object; mend it first")
        return read


@explained(
    "flatmesh docker-options --write && systemctl restart docker",
    "flatmesh docker-options --format env > /run/docker_opts.env",
    "dockerd $(flatmesh docker-options --part quarter --iptables=false)",
    "flatmesh docker-options --remove     # Docker goes back to docker0",
)
@click.command("docker-options")
@click.option(
    "--part",
    type=Choice(list(PARTS)),
    default="half",
    show_default=True,
    help="How much of this host's lease Docker gets: the upper end of it.",
)
@boolean(
    "--iptables",
    default=True,
    show_default=True,
    help="Let Docker write iptables rules, which published ports (-p) need.",
)
@click.option(
    "--format",
    "form",
    type=Choice(["options", "env", "json"]),
    default="options",
    show_default=True,
    help="As options of dockerd, as DOCKER_OPTS for an EnvironmentFile, or as daemon.json.",
)
@click.option("--write", is_flag=True, help="Put them into --daemon-file; its other keys stay.")
@click.option("--remove", is_flag=True, help="Take them out of it, and give the part back to pods.")
@click.option(
    "--daemon-file",
    type=click.Path(path_type=Path),
    default=DAEMON_FILE,
    show_default=True,
    help="Docker's configuration.",
)
@click.option(
    "--subnet-file",
    envvar=["FLATMESH_SUBNET_FILE", "FLANNELD_SUBNET_FILE"],
    type=click.Path(path_type=Path),
    default=SUBNET_FILE,
    show_default=True,
    help="Where flatmeshd writes the lease.",
)
@click.option(
    "--run-dir",
    envvar="FLATMESH_RUN_DIR",
    type=click.Path(path_type=Path),
    default=RUN_DIR,
    show_default=True,
    help="As flatmeshd's.",
)
@click.option(
    "--state-dir",
    envvar="FLATMESH_STATE_DIR",
    type=click.Path(path_type=Path),
    default=STATE_DIR,
    show_default=True,
    help="As flatmeshd's; the part is recorded there.",
)
def docker_options(
    part: str,
    form: str,
    *,
    iptables: bool,
    write: bool,
    remove: bool,
    daemon_file: Path,
    subnet_file: Path,
    run_dir: Path,
    state_dir: Path,
) -> None:
    """Make kbr0 the default bridge of Docker, with a part of this host's lease.

    Containers then have an address that every pod and container of all hosts reaches, without NAT.
    flatmeshd --docker-bridge (FLATMESH_DOCKER_BRIDGE=true) makes kbr0 before dockerd wants it. Call
    it again when the lease has changed.
    """
    if remove:
        changed = DaemonFile(daemon_file).change({})
        (state_dir / DOCKER_FILE).unlink(missing_ok=True)
        click.echo(f"{daemon_file}: {'changed; restart dockerd' if changed else 'unchanged'}")
        return
    if not AttachMode.read(run_dir).to_bridge:
        raise DockerOptionsError(
            "pods of this host are ports of Open vSwitch (PodAttach obr0), which Docker's default "
            "bridge can't be: use the network driver, or PodAttach kbr0"
        )
    env = read_subnet_env(subnet_file)
    parts = parts_of(env, PARTS[part])
    keys = daemon_keys(env, parts, iptables=iptables)
    set_aside(state_dir, parts)
    if write:
        changed = DaemonFile(daemon_file).change(keys)
        click.echo(f"{daemon_file}: {'changed; restart dockerd' if changed else 'unchanged'}")
    else:
        click.echo(as_text(keys, form))


def parts_of(env: SubnetEnv, bits: int) -> list[Part]:
    """The upper end of each subnet of the lease. Raises DockerOptionsError. Pure."""
    parts: list[Part] = []
    for interface in (env.subnet, env.ipv6_subnet):
        if interface is None:
            continue
        network = interface.network
        if network.max_prefixlen - network.prefixlen - bits < MIN_HOST_BITS:
            raise DockerOptionsError(f"{network} is too small to be shared: have longer leases")
        length = network.prefixlen + bits
        last = int(network.broadcast_address) >> (network.max_prefixlen - length)
        parts.append(type(network)((last << (network.max_prefixlen - length), length)))
    return parts


def daemon_keys(env: SubnetEnv, parts: list[Part], *, iptables: bool) -> dict[str, object]:
    """What daemon.json has to say. Pure."""
    keys: dict[str, object] = {"bridge": DEFAULT_BRIDGE}
    for part in parts:
        if part.version == 6:
            keys["ipv6"] = True
        keys["fixed-cidr" if part.version == 4 else "fixed-cidr-v6"] = str(part)
    keys |= {"mtu": env.mtu, "ip-masq": False}
    return keys if iptables else keys | {"iptables": False}


def as_text(keys: Mapping[str, object], form: str) -> str:
    """One of the three forms. Pure."""
    if form == "json":
        return json.dumps(keys, indent=4)
    texts = {key: json.dumps(v) if isinstance(v, bool) else str(v) for key, v in keys.items()}
    options = " ".join(f"--{key}={shlex.quote(text)}" for key, text in texts.items())
    return f'DOCKER_OPTS="{options}"' if form == "env" else options


def set_aside(state_dir: Path, parts: list[Part]) -> None:
    """Record that no pod gets an address of these. Raises DockerOptionsError where pods have."""
    make_private_directory(state_dir)
    path, store = state_dir / DOCKER_FILE, state_dir / ADDRESS_STORE
    before = path.read_text() if path.exists() else None
    wanted = {"bridge": DEFAULT_BRIDGE, "parts": [str(part) for part in parts]}
    write_private(path, json.dumps(wanted) + "\n")
    if not store.exists():
        return
    with AddressStore(store, durable=False) as opened:  # after the file: none is given any more
        held = [
            str(address)
            for record in opened.list()
            if record.metadata.get("plugin") != FOUND
            for address in record.addresses
            if any(ip_address(str(address)) in part for part in parts)
        ]
    if not held:
        return
    if before is None:
        path.unlink()
    elif before != path.read_text():
        write_private(path, before)
    names = ", ".join(held[:3]) + (" and more" if len(held) > 3 else "")
    raise DockerOptionsError(
        f"pods have {len(held)} address(es) of {' '.join(map(str, parts))} already: {names}; "
        "delete these pods first, or take a smaller --part"
    )

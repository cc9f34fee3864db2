"""`flannel`: a drop-in for the flannel meta-plugin; existing conflists work unchanged.

    {"name": "cbr0", "cniVersion": "0.3.1", "type": "flannel",
     "subnetFile": "/run/flannel/subnet.env", "dataDir": "/var/lib/cni/flannel",
     "ipam": {...}, "delegate": {"hairpinMode": true, "isDefaultGateway": true}}

It completes the `delegate` section with what the lease says (MTU, masquerading, ranges and
routes for the IPAM plugin) and calls that plugin: `bridge` with `host-local` unless the
section names others, found on CNI_PATH. So pods that the real meta-plugin attached are
detached by the same plugins that attached them. Where `bridge` is not installed, or the
section says `"type": "flatmesh"`, our own bridge does it, with our own address book.

What the delegate was called with is kept in dataDir until its DEL has succeeded, so a DEL
can be retried as often as it takes. The file has the meta-plugin's name, the container id,
and for a second attachment of one container a longer one.

(flannel-io/cni-plugin, README and flannel_linux.go, for keys and defaults.)
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cni import delegate, ipam_config
from cni.errors import INVALID_CONFIG, IO_FAILURE, NOT_AVAILABLE, CniError
from cni.host import Host
from cni.plugin import Plugin, run_command
from cni.pod import attachment_lock
from cni.request import Key, Request
from cni.request import parse as parse_request
from cni.result import Result
from ipam.subnet_env import SubnetEnv

DATA_DIR = "/var/lib/cni/flannel"
OWN_BRIDGE = "flatmesh"
OWNER = "flatmesh.attachment"  # key of a state file of ours: [network, container id, ifname]


def add(request: Request, host: Host) -> Result:
    """Attach by the delegate. Raises CniError."""
    env = ipam_config.read_subnet_env(ipam_config.subnet_file(request, host.subnet_file))
    conf = delegate_conf(request, env, own_bridge=not _installed("bridge", request))
    _prepare(conf["type"], request)
    key = request.key
    with attachment_lock.hold(host, "flannel", key):
        path = _state_path(request, key)
        _write(path, {**conf, OWNER: list(key)})
        if request.conf.get("prevResult") is not None:
            conf["prevResult"] = request.conf["prevResult"]
        try:
            result = _call("ADD", conf, request, host)
        except CniError:
            # whatever it left, its own DEL removes; if not now, then when the runtime calls us
            with contextlib.suppress(CniError):
                _call("DEL", conf, request, host)
                path.unlink(missing_ok=True)
            raise
    return result or Result()


def delete(request: Request, host: Host) -> None:
    """Detach by the delegate, with what ADD called it with. Raises CniError."""
    key = request.key
    with attachment_lock.hold(host, "flannel", key):
        path = _state_path(request, key)
        conf = _read(path)
        if conf is None:
            return
        conf.pop(OWNER, None)
        if request.conf.get("prevResult") is not None:
            conf["prevResult"] = request.conf["prevResult"]
        _prepare(conf.get("type"), request)
        _call("DEL", conf, request, host)
        path.unlink(missing_ok=True)


def check(request: Request, host: Host) -> None:
    """CHECK by the delegate. Raises CniError."""
    key = request.key
    conf = _read(_state_path(request, key))
    if conf is None:
        raise CniError(IO_FAILURE, f"CHECK: nothing is kept of container {request.container_id}")
    conf.pop(OWNER, None)
    conf["prevResult"] = request.conf.get("prevResult")
    _prepare(conf.get("type"), request)
    _call("CHECK", conf, request, host)


def gc(request: Request, host: Host) -> None:
    """Detach what is not valid, each as DEL would; then GC of the delegate. Raises CniError."""
    valid = request.valid_attachments()
    errors = []
    for path, key in _kept(request):
        if key.network != request.network or (key.container_id, key.ifname) in valid:
            continue
        try:
            with attachment_lock.hold(host, "flannel", key):
                conf = _read(path)
                if conf is not None:
                    conf.pop(OWNER, None)
                    _undo(conf, request, key, host)
                    path.unlink(missing_ok=True)
        except (CniError, OSError) as error:
            errors.append(f"{key.container_id} {key.ifname}: {error}")
    if errors:
        raise CniError(IO_FAILURE, f"GC of {request.network}: {'; '.join(errors)}")


def status(request: Request, host: Host) -> None:
    """Raise CniError (50, 51, 7) when an ADD could not be served."""
    known = host.status()
    if known.problem:
        raise CniError(NOT_AVAILABLE + known.pods_affected, known.problem)
    env = ipam_config.read_subnet_env(ipam_config.subnet_file(request, host.subnet_file))
    conf = delegate_conf(request, env, own_bridge=not _installed("bridge", request))
    _prepare(conf["type"], request)


def delegate_conf(request: Request, env: SubnetEnv, *, own_bridge: bool) -> dict[str, Any]:
    """The delegate's config: its section, completed from the lease. Raises CniError (7)."""
    section = request.conf.get("delegate")
    if section is not None and not isinstance(section, Mapping):
        raise CniError(INVALID_CONFIG, "delegate: is not an object")
    conf = dict(section or {})
    for key in ("name", "ipam"):
        if key in conf:
            raise CniError(
                INVALID_CONFIG, f"delegate: must not hold {key!r}, which flannel fills in"
            )
    conf["name"] = request.network
    kind = conf.setdefault("type", "bridge")
    conf.setdefault("ipMasq", not env.ip_masq)
    conf.setdefault("mtu", env.mtu)
    if kind == "bridge":
        conf.setdefault("isGateway", True)
    if request.conf.get("cniVersion"):
        conf["cniVersion"] = request.conf["cniVersion"]
    if request.conf.get("runtimeConfig") is not None:
        conf["runtimeConfig"] = request.conf["runtimeConfig"]
    conf["ipam"] = _ipam_section(request, env)
    own_routes = (request.conf.get("ipam") or {}).get("routes") or []
    if kind == "bridge" and own_bridge:
        # the same, said to our own bridge, whose defaults differ
        conf["type"] = OWN_BRIDGE
        conf.setdefault("bridge", "cni0")
        conf.setdefault("isDefaultGateway", False)
    if conf["type"] == OWN_BRIDGE and conf["ipam"]["type"] == "host-local":
        # what host-local is told here, ours reads from the lease itself
        conf["ipam"] = {**conf["ipam"], "type": "flatmesh-ipam", "routes": own_routes}
        del conf["ipam"]["ranges"]
        if request.conf.get("subnetFile"):
            conf["subnetFile"] = request.conf["subnetFile"]
    return conf


def _prepare(kind: object, request: Request) -> None:
    """Find out, before anything is changed, that the delegate can be called. Raises CniError."""
    if kind != OWN_BRIDGE:
        delegate.prepare(kind, request)


def _call(command: str, conf: Mapping[str, Any], request: Request, host: Host) -> Result | None:
    """Run the delegate: our own bridge within this process, any other as an executable."""
    if conf["type"] != OWN_BRIDGE:
        return delegate.call(conf["type"], command, conf, request, host)
    environment = {**request.call.environment, "CNI_COMMAND": command}
    inner = replace(
        request.call, plugin=OWN_BRIDGE, environment=environment, stdin=json.dumps(conf).encode()
    )
    return run_command(_own_bridge(), parse_request(inner), host)


def _own_bridge() -> Plugin:
    from cni.pod import plugin  # noqa: PLC0415 - 15 ms that other delegates needn't pay

    return plugin


def _undo(conf: Mapping[str, Any], request: Request, key: Key, host: Host) -> None:
    """DEL of the delegate for an attachment that the runtime's GC no longer lists."""
    if conf["type"] != OWN_BRIDGE:
        remembered = delegate.to_remember(conf["type"], request)
        delegate.undo({**remembered, "conf": conf}, key, host)
        return
    environment = {
        **request.call.environment,
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": key.container_id,
        "CNI_NETNS": "",
        "CNI_IFNAME": key.ifname,
    }
    inner = replace(
        request.call,
        plugin=OWN_BRIDGE,
        environment=environment,
        stdin=json.dumps(conf).encode(),
        netns_fd=None,
    )
    run_command(_own_bridge(), parse_request(inner), host)


def _ipam_section(request: Request, env: SubnetEnv) -> dict[str, Any]:
    section = request.conf.get("ipam")
    if section is not None and not isinstance(section, Mapping):
        raise CniError(INVALID_CONFIG, "ipam: is not an object")
    ipam = dict(section or {})
    ipam.setdefault("type", "host-local")
    subnets = [i.network for i in (env.subnet, env.ipv6_subnet) if i is not None]
    ipam["ranges"] = [[{"subnet": str(subnet)}] for subnet in subnets]
    routes = ipam.get("routes")
    if routes is not None and not isinstance(routes, list):
        raise CniError(INVALID_CONFIG, "ipam.routes: is not a list")
    networks = (*env.networks, *env.ipv6_networks)
    ipam["routes"] = [*(routes or []), *({"dst": str(n)} for n in networks)]
    return ipam


def _installed(name: str, request: Request) -> bool:
    return any(os.access(Path(directory, name), os.X_OK) for directory in request.path)


def _path(request: Request, key: str) -> str:
    value = request.conf[key]
    if not isinstance(value, str) or not value.startswith("/"):
        raise CniError(INVALID_CONFIG, f"{key}: {value!r} is not an absolute path")
    return value


def _data_dir(request: Request) -> Path:
    return Path(_path(request, "dataDir") if request.conf.get("dataDir") else DATA_DIR)


def _state_path(request: Request, key: Key) -> Path:
    """This attachment's file: the meta-plugin's name, unless another attachment has that."""
    directory = _data_dir(request)
    plain = directory / key.container_id
    long = directory / f"{key.container_id}.{key.network}.{key.ifname}"
    if long.exists():
        return long
    found = _read(plain)
    if found is None:
        return plain
    owner = found.get(OWNER)
    # a file without owner is the real meta-plugin's; all it says is its network
    mine = owner == list(key) if owner is not None else found.get("name") == key.network
    return plain if mine else long


def _kept(request: Request) -> list[tuple[Path, Key]]:
    """All state files of ours. What the real meta-plugin left names no interface: not GC's."""
    found = []
    directory = _data_dir(request)
    for path in sorted(directory.glob("[!.]*")) if directory.is_dir() else []:
        owner = (_read(path) or {}).get(OWNER)
        if isinstance(owner, list) and len(owner) == 3:
            found.append((path, Key(*owner)))
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CniError(IO_FAILURE, f"{path}: {error.strerror}") from None
    try:
        conf = json.loads(text)
    except ValueError:
        conf = None
    if not isinstance(conf, dict):
        raise CniError(IO_FAILURE, f"{path}: is no state file of flannel; remove it")
    return conf


def _write(path: Path, conf: Mapping[str, Any]) -> None:
    """Whole or not at all, and on disk before the delegate is called."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(conf, file)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CniError(IO_FAILURE, f"{path}: {error.strerror}") from None

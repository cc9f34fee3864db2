# SPDX-License-Identifier: Apache-2.0
"""A container's root directory, made in the container's own mount namespace.

An image is a directory: it is the lower layer of an overlay, so what a container writes is its
own. The image `host` is the host's files: a tmpfs with each directory of the host's root bound
read-only, and own /proc, /sys, /dev, /run, /tmp. In both, what hides the scheduler's own state,
and the last step that makes the root read-only, is done before anything of the task runs.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process import linux
from scheduler.runtime.protocol import HOST_IMAGE, ContainerConfig, File, Mount

OWN = {"proc", "sys", "dev", "run", "tmp", "lost+found"}
"""Directories of the host's root that the image `host` does not show."""
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
READ_ONLY_PROC = ("bus", "fs", "irq", "sys", "sysrq-trigger")
HIDDEN_PROC = ("kcore", "keys", "timer_list", "sched_debug")


@dataclass(frozen=True, slots=True)
class RootPlan:
    """What a container's root is made of."""

    config: ContainerConfig
    scratch: Path
    """A directory of this container alone, for the mount point and the writable layer."""
    etc: tuple[tuple[str, str], ...]
    """Names below /etc, and what these files say."""
    hidden: tuple[Path, ...] = ()
    """Directories of the host that no container may see."""


def enter_root(plan: RootPlan) -> None:
    """Make the root and go there; the calling process is alone in a new mount namespace."""
    linux.mount("", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    root = plan.scratch / "root"
    root.mkdir(parents=True, exist_ok=True)
    config = plan.config
    host = config.image == HOST_IMAGE
    if host:
        _host_root(root, plan.hidden)
    else:
        _image_root(root, plan)
    _kernel_filesystems(root)
    for name, text in plan.etc:
        _small_file(root, name, text, plan.scratch)
    targets = sorted((m for m in config.mounts), key=lambda m: m.target.count("/"))
    for mount in targets:
        _mount(root, mount)
    _files(root, config.files, plan.scratch)
    if config.read_only or host:
        linux.mount("", str(root), flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)
    linux.pivot_root(str(root))


def _host_root(root: Path, hidden: tuple[Path, ...]) -> None:
    linux.mount("tmpfs", str(root), "tmpfs", linux.MS_NOSUID, "size=1m,mode=755")
    for entry in os.scandir("/"):
        target = root / entry.name
        if entry.is_symlink():
            target.symlink_to(entry.path and Path(entry.path).readlink())
        elif entry.name in OWN or not entry.is_dir():
            continue
        else:
            target.mkdir()
            linux.mount(entry.path, str(target), flags=linux.MS_BIND | linux.MS_REC)
            linux.make_read_only(str(target))
    for name, mode in (("run", 0o755), ("tmp", 0o1777)):
        _tmpfs(root / name, mode)
    for path in hidden:
        below = root / path.relative_to("/")
        if below.is_dir():
            _tmpfs(below, 0o700)


def _image_root(root: Path, plan: RootPlan) -> None:
    image = Path(plan.config.image)
    if not image.is_absolute() or not image.is_dir():
        raise RuntimeCallError(
            f"image {plan.config.image!r}: no such directory on this node; an image of the runtime "
            f"`process` is a directory there, the path of a root directory, or {HOST_IMAGE!r}"
        )
    upper, work = plan.scratch / "upper", plan.scratch / "work"
    for directory in (upper, work):
        directory.mkdir(parents=True, exist_ok=True)
    upper.chmod(stat.S_IMODE(image.stat().st_mode))
    layers = ",".join(
        f"{k}={_escaped(v)}"
        for k, v in (("lowerdir", image), ("upperdir", upper), ("workdir", work))
    )
    linux.mount("overlay", str(root), "overlay", 0, layers)


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def _tmpfs(path: Path, mode: int, size: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    options = f"mode={mode:o}" + (f",size={size}" if size else "")
    linux.mount("tmpfs", str(path), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)


def _kernel_filesystems(root: Path) -> None:
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    proc = root / "proc"
    linux.mount("proc", str(proc), "proc", flags)
    linux.mount("sysfs", str(root / "sys"), "sysfs", flags | linux.MS_RDONLY)
    for name in READ_ONLY_PROC:
        if (proc / name).exists():
            path = str(proc / name)
            linux.mount(path, path, flags=linux.MS_BIND | linux.MS_REC)
            linux.mount("", path, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags)
    for name in HIDDEN_PROC:
        if (proc / name).exists():
            linux.mount("/dev/null", str(proc / name), flags=linux.MS_BIND)
    dev = root / "dev"
    linux.mount("tmpfs", str(dev), "tmpfs", linux.MS_NOSUID, "mode=755,size=64k")
    for name in DEVICES:
        (dev / name).touch()
        linux.mount(f"/dev/{name}", str(dev / name), flags=linux.MS_BIND)
    for directory in ("pts", "shm", "mqueue"):
        (dev / directory).mkdir()
    linux.mount("devpts", str(dev / "pts"), "devpts", linux.MS_NOSUID, "newinstance,ptmxmode=0666")
    linux.mount("shm", str(dev / "shm"), "tmpfs", flags, "mode=1777,size=64m")
    for name, target in LINKS.items():
        (dev / name).symlink_to(target)


def inside(root: Path, target: str) -> Path:
    """Where a path of the container is, seen from outside; no link of the image leads out."""
    path, seen = root, 0
    parts = [p for p in target.split("/") if p not in ("", ".")][::-1]
    while parts:
        part = parts.pop()
        if part == "..":
            path = path.parent if path != root else root
            continue
        path = path / part
        if path.is_symlink():
            seen += 1
            if seen > 40:
                raise RuntimeCallError(f"mount target {target!r}: too many symbolic links")
            link = str(path.readlink())
            path = root if link.startswith("/") else path.parent
            parts.extend([p for p in link.split("/") if p not in ("", ".")][::-1])
    return path


def _mount_point(root: Path, target: str, directory: bool) -> Path:
    path = inside(root, target)
    try:
        if directory:
            path.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    except OSError as error:
        raise RuntimeCallError(
            f"mount target {target!r} can't be made in the image: {error.strerror}; "
            "the image `host` is read-only: there a target exists already, is directly in /, "
            "or is below /run or /tmp"
        ) from None
    return path


def _mount(root: Path, mount: Mount) -> None:
    if mount.kind == "tmpfs":
        _tmpfs(_mount_point(root, mount.target, directory=True), mount.mode, mount.size)
        return
    source = Path(mount.source)
    if not source.exists():
        raise RuntimeCallError(f"bind source path does not exist on this node: {mount.source}")
    target = str(_mount_point(root, mount.target, source.is_dir()))
    linux.mount(str(source), target, flags=linux.MS_BIND | linux.MS_REC)
    if mount.read_only:
        linux.make_read_only(target)


def _small_file(root: Path, name: str, text: str, scratch: Path) -> None:
    """A file below /etc, that the container may read and not change for others."""
    target = inside(root, f"/etc/{name}")
    source = scratch / f"etc-{name}"
    source.write_text(text)
    source.chmod(0o644)
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    except OSError:
        return  # a read-only image without this file
    linux.mount(str(source), str(target), flags=linux.MS_BIND)


def _files(root: Path, files: tuple[File, ...], scratch: Path) -> None:
    """Secrets and configs: on one tmpfs, each bound to its place."""
    if not files:
        return
    store = scratch / "files"
    _tmpfs(store, 0o700)
    for number, file in enumerate(files):
        source = store / str(number)
        descriptor = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(file.content)
        os.chown(source, file.uid, file.gid)
        source.chmod(file.mode)
        target = str(_mount_point(root, file.target, directory=False))
        linux.mount(str(source), target, flags=linux.MS_BIND)
        linux.mount("", target, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)

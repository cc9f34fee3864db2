# SPDX-License-Identifier: Apache-2.0
"""Two hosts on which real container runtimes run, and the image of their containers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.cluster import Lab
from lab.spec import LabSpec
from tests.spec.runtimes.runtime_host import DEADLINE, RuntimeHost, WaitUntil, until

IMAGE = "docker.io/library/fm-busybox:1"
BUSYBOX = Path("/bin/busybox")


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    return until


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image archive in docker's format: one static busybox that sleeps."""
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    layer = tar(
        {"bin/busybox": BUSYBOX.read_bytes()},
        {"bin/sh": "busybox", "bin/ping": "busybox", "bin/nc": "busybox", "bin/ip": "busybox"},
    )
    config = json.dumps(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {"Entrypoint": ["/bin/busybox", "sleep", "1000000"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}"]},
        }
    ).encode()
    name = f"{sha256(config)}.json"
    manifest = [{"Config": name, "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    path = tmp_path_factory.mktemp("image") / "image.tar"
    path.write_bytes(
        tar({name: config, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()})
    )
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return out.getvalue()


@pytest.fixture(scope="module")
def runtime_hosts() -> Iterator[list[RuntimeHost]]:
    """Two hosts of a VXLAN lab with running daemons, each with namespaces for a runtime."""
    directory = Path(tempfile.mkdtemp(prefix="fm-"))  # short: unix sockets live below it
    lab = Lab(LabSpec(f"rt{secrets.token_hex(3)}", 2, 0), directory)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.callback(lab.down)
        lab.up()
        made = []
        for number in lab.host_numbers:
            host = RuntimeHost(lab, number, directory / f"r{number}")
            stack.callback(host.stop)
            host.start()
            made.append(host)
        yield made


@pytest.fixture(scope="module")
def cgroup_parent() -> Iterator[str]:
    """A cgroup for the containers of one module; gone afterwards, whatever they did."""
    name = f"fm-{secrets.token_hex(3)}"
    yield f"/{name}"
    found = [p for p in Path("/sys/fs/cgroup").glob(f"*/{name}/**/") if p.is_dir()]
    for path in sorted(found, key=lambda p: -len(p.parts)):
        deadline = time.monotonic() + DEADLINE
        while path.exists() and time.monotonic() < deadline:
            try:
                path.rmdir()
            except OSError:  # its last process is still on the way out
                time.sleep(0.02)

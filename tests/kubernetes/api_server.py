# SPDX-License-Identifier: Apache-2.0
"""A real kube-apiserver for tests: it can be stopped, frozen, started again, and asked anything."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from hostnet.netns import run_in
from lab import processes
from lab.time_factor import scaled
from tests.kubernetes.binaries import binary

ADMIN, PLAIN = "admin-token", "plain-token"
"""Bearer tokens: of the group system:masters, and of a user without any rights."""


class ApiServer:
    """One API server on an address of its own. Its certificate is made by itself."""

    def __init__(self, directory: Path, address: str, etcd: str, netns: str | None = None) -> None:
        self.directory = directory
        self.address = address
        self.url = f"https://{address}:6443"
        self._etcd = etcd
        self._netns = netns
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "tokens.csv").write_text(
            f'{ADMIN},admin,1,"system:masters"\n{PLAIN},plain,2\n'
        )
        key = directory / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)

    # -- the process ---------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and wait until it serves."""
        own = self.directory
        argv = [
            str(binary("kube-apiserver")),
            f"--etcd-servers={self._etcd}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            "--secure-port=6443",
            f"--cert-dir={own}/certificates",
            f"--token-auth-file={own}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={own}/service-account.key",
            f"--service-account-signing-key-file={own}/service-account.key",
            "--endpoint-reconciler-type=none",  # a loopback address is no endpoint
            "--watch-cache-sizes=",
            "--feature-gates=IPv6DualStack=true",  # off by default until 1.21
        ]
        with (own / "kube-apiserver.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*(processes.enter(self._netns) if self._netns else ()), *argv],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + scaled(90)
        while self._answers() != "ok":
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def _answers(self) -> str:
        try:
            return str(self.ask("GET", "/readyz", raw=True))
        except (OSError, urllib.error.URLError):
            return ""

    def stop(self) -> None:
        """End it; what it has stored stays in etcd."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self, *, frozen: bool) -> None:
        """Stop it by SIGSTOP, so that connections stay and nobody answers, or let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def log(self) -> str:
        """The end of its log."""
        return (self.directory / "kube-apiserver.log").read_text(errors="replace")[-3000:]

    # -- what it holds -------------------------------------------------------------------

    @property
    def ca(self) -> Path:
        """The certificate that it made for itself."""
        return self.directory / "certificates" / "apiserver.crt"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        kind: str = "json",
        *,
        token: str = ADMIN,
        raw: bool = False,
    ) -> Any:
        """One request as an admin."""

        def asked() -> str:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            request = urllib.request.Request(  # noqa: S310
                self.url + path,
                json.dumps(body).encode() if body is not None else None,
                {"Authorization": f"Bearer {token}", "Content-Type": f"application/{kind}"},
                method=method,
            )
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310
                return str(answer.read().decode())

        text = run_in(processes.NETNS_DIR / self._netns, asked) if self._netns else asked()
        return text if raw else json.loads(text)

    def make_node(self, name: str, *cidrs: str, **annotations: str) -> None:
        """A Node as a kubelet registers it, with what kube-controller-manager gives it."""
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
        about = {"name": name, "annotations": annotations}
        self.ask("POST", "/api/v1/nodes", {"metadata": about, "spec": spec})

    def annotate(self, name: str, **annotations: str | None) -> None:
        """Set annotations by their whole names; None removes one."""
        body = {"metadata": {"annotations": annotations}}
        self.ask("PATCH", f"/api/v1/nodes/{name}", body, "merge-patch+json")

    def node(self, name: str) -> Any:
        """A Node as it is."""
        return self.ask("GET", f"/api/v1/nodes/{name}")

    def remove_node(self, name: str) -> None:
        """Remove a Node."""
        self.ask("DELETE", f"/api/v1/nodes/{name}")

    def kubeconfig(self, path: Path, token: str = ADMIN) -> Path:
        """Write a kubeconfig for this server."""
        cluster = {"server": self.url, "certificate-authority": str(self.ca)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

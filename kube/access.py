# SPDX-License-Identifier: Apache-2.0
"""Where the API server is, and what proves to it who we are.

In the order of client-go's BuildConfigFromFlags, which flanneld uses: `--kubeconfig-file` and
`--kube-api-url` where one is given (the URL wins), else the pod's service account. Source:
kubernetes.io/docs, "Accessing the Kubernetes API from a Pod" and "kubeconfig (v1)".

Only what a program needs that runs alone is read of a kubeconfig: certificates, tokens and files of
tokens. Plugins that print a token (`exec`, `auth-provider`) are for people, and refused.

Certificates and tokens in files are rotated while we run: whoever uses an `ApiAccess` reads them
again (`kube.client`).
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kube.errors import KubeSettingsError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet mounts `token` and `ca.crt` into pods."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate, a key or a token: in a file, or as it is."""

    file: Path | None = None
    data: bytes | None = None

    def read(self) -> bytes:
        """What it is now. Raises KubeSettingsError."""
        if self.data is not None:
            return self.data
        assert self.file is not None  # noqa: S101 - one of the two is there
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise KubeSettingsError(f"{self.file}: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """One API server, and our credentials for it."""

    url: str
    """Without a slash at its end."""
    ca: Credential | None = None
    """Certificates that sign the server's; None: those of the system."""
    token: Credential | None = None
    certificate: Credential | None = None
    key: Credential | None = None
    server_name: str | None = None
    """The name in the server's certificate, where it is not the URL's."""
    insecure: bool = False
    """Whether the server's certificate is not looked at (`insecure-skip-tls-verify`)."""

    def credentials(self) -> tuple[bytes, ...]:
        """All that TLS needs, as it is now: a change of it means another context."""
        found = (self.ca, self.certificate, self.key)
        return tuple(one.read() if one is not None else b"" for one in found)

    def bearer(self) -> str | None:
        """The token, as it is now. Raises KubeSettingsError."""
        if self.token is None:
            return None
        token = self.token.read().decode("ascii", "replace").strip()
        if not token or not token.isprintable():
            raise KubeSettingsError(f"{self.token.file or 'the kubeconfig'}: no token in it")
        return token


def find_access(api_url: str, kubeconfig: str, environ: Mapping[str, str]) -> ApiAccess:
    """The API server that the flags mean, or the pod's own. Raises KubeSettingsError."""
    if kubeconfig:
        return from_kubeconfig(Path(kubeconfig), api_url)
    if api_url:
        return ApiAccess(_checked_url(api_url, "--kube-api-url"))
    return in_cluster(environ)


def in_cluster(environ: Mapping[str, str], directory: Path = SERVICE_ACCOUNT) -> ApiAccess:
    """As a pod reaches it. Raises KubeSettingsError outside of a pod."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise KubeSettingsError(
            "no API server: this is no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set); "
            "give --kubeconfig-file or --kube-api-url"
        )
    for name in ("token", "ca.crt"):
        if not (directory / name).is_file():
            raise KubeSettingsError(
                f"no {directory / name}: the pod needs a service account with its token mounted"
            )
    name = f"[{host}]" if ":" in host else host
    return ApiAccess(
        _checked_url(f"https://{name}:{port}", "KUBERNETES_SERVICE_HOST"),
        ca=Credential(directory / "ca.crt"),
        token=Credential(directory / "token"),
    )


def from_kubeconfig(path: Path, api_url: str = "") -> ApiAccess:
    """What a kubeconfig's current context says; `api_url` takes the place of its server.

    Raises KubeSettingsError.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise KubeSettingsError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise KubeSettingsError(f"{path} is no kubeconfig: {str(error)[:200]}") from None
    return _Kubeconfig(path, document if isinstance(document, dict) else {}).access(api_url)


@dataclass(frozen=True, slots=True)
class _Kubeconfig:
    path: Path
    document: Mapping[str, Any]

    def access(self, api_url: str) -> ApiAccess:
        context = self._named("contexts", "context", self.document.get("current-context"))
        cluster = self._named("clusters", "cluster", context.get("cluster"))
        user = self._named("users", "user", context["user"]) if context.get("user") else {}
        for plugin in ("exec", "auth-provider", "username"):
            if plugin in user:
                raise self._refusal(f"{plugin} is not supported: use a certificate or a token")
        token = self._credential(user, "tokenFile", "")
        if token is None and user.get("token"):
            token = Credential(data=str(user["token"]).encode())
        certificate = self._credential(user, "client-certificate", "client-certificate-data")
        key = self._credential(user, "client-key", "client-key-data")
        if (certificate is None) != (key is None):
            raise self._refusal("client-certificate and client-key belong together")
        server = api_url or cluster.get("server")
        if not isinstance(server, str) or not server:
            raise self._refusal("the cluster has no server")
        name = cluster.get("tls-server-name")
        return ApiAccess(
            _checked_url(server, str(self.path)),
            self._credential(cluster, "certificate-authority", "certificate-authority-data"),
            token,
            certificate,
            key,
            str(name) if name else None,
            cluster.get("insecure-skip-tls-verify") is True,
        )

    def _named(self, kind: str, what: str, name: Any) -> Mapping[str, Any]:
        entries = self.document.get(kind)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("name") == name:
                found = entry.get(what)
                return found if isinstance(found, dict) else {}
        raise self._refusal(f"no {what} {str(name)[:100]!r} in it")

    def _credential(self, part: Mapping[str, Any], file: str, data: str) -> Credential | None:
        if data and part.get(data):
            try:
                return Credential(data=base64.b64decode(str(part[data]), validate=True))
            except ValueError:
                raise self._refusal(f"{data} is not base64") from None
        if part.get(file):
            return Credential(self.path.parent / str(part[file]))  # relative to the kubeconfig
        return None

    def _refusal(self, why: str) -> KubeSettingsError:
        return KubeSettingsError(f"kubeconfig {self.path}: {why}")


def _checked_url(url: str, where: str) -> str:
    """Raise KubeSettingsError for what is no URL of an API server."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("http", "https") or not rest or any(c.isspace() for c in url):
        raise KubeSettingsError(f"{where}: {url[:200]!r} is not http(s)://HOST:PORT")
    return url.rstrip("/")


def tls_context(access: ApiAccess) -> ssl.SSLContext | None:
    """For connections to the server, with the credentials as they are now; None for http.

    Raises KubeSettingsError.
    """
    if not access.url.startswith("https:"):
        return None
    ca, certificate, key = access.credentials()
    try:
        context = ssl.create_default_context(cadata=ca.decode("ascii") if ca else None)
        if access.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if certificate:
            _load_pair(context, certificate, key)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise KubeSettingsError(f"certificates for {access.url}: {error}") from None
    return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """The module ssl reads certificates from files only: one in memory, for a moment."""
    with os.fdopen(os.memfd_create("client certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")

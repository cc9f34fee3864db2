# SPDX-License-Identifier: Apache-2.0
"""Which API server is meant, and with which credentials."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import yaml

from kube.access import find_access, in_cluster
from kube.errors import KubeSettingsError


def kubeconfig(directory: Path, **changes: object) -> str:
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://192.168.64.1:6443/"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        **changes,
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_a_kubeconfig(tmp_path: Path) -> None:
    access = find_access("", kubeconfig(tmp_path), {})
    assert access.url == "https://192.168.64.1:6443"
    assert access.bearer() == "secret"


def test_the_url_takes_the_place_of_its_server(tmp_path: Path) -> None:
    assert find_access("http://127.0.0.1:8080", kubeconfig(tmp_path), {}).url.endswith(":8080")


def test_a_file_with_a_token_is_read_again(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, users=[{"name": "u", "user": {"tokenFile": "token"}}])
    (tmp_path / "token").write_text("one\n")
    access = find_access("", path, {})
    assert access.bearer() == "one"
    (tmp_path / "token").write_text("two\n")
    assert access.bearer() == "two"


def test_certificates_may_stand_in_it(tmp_path: Path) -> None:
    pem = base64.b64encode(b"PEM").decode()
    user = {"client-certificate-data": pem, "client-key-data": pem}
    access = find_access("", kubeconfig(tmp_path, users=[{"name": "u", "user": user}]), {})
    assert access.credentials() == (b"", b"PEM", b"PEM")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"current-context": "x"}, "no context 'x' in it"),
        ({"clusters": []}, "no cluster 'k' in it"),
        ({"clusters": [{"name": "k", "cluster": {}}]}, "the cluster has no server"),
        ({"clusters": [{"name": "k", "cluster": {"server": "ftp://x"}}]}, "is not http"),
        ({"users": [{"name": "u", "user": {"exec": {}}}]}, "exec is not supported"),
        ({"users": [{"name": "u", "user": {"client-key": "k"}}]}, "belong together"),
        ({"users": [{"name": "u", "user": {"client-key-data": "%"}}]}, "is not base64"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, object], why: str) -> None:
    with pytest.raises(KubeSettingsError, match=why):
        find_access("", kubeconfig(tmp_path, **changes), {})


@pytest.mark.parametrize("text", ["", "[", "a: [", "\x00"])
def test_what_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(KubeSettingsError, match=str(tmp_path / "k")):
        find_access("", str(tmp_path / "k"), {})


def test_in_a_pod(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(KubeSettingsError, match="needs a service account"):
        in_cluster(environ, tmp_path)
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text(name)
    assert in_cluster(environ, tmp_path).url == "https://[fd00::1]:443"
    with pytest.raises(KubeSettingsError, match="this is no pod of Kubernetes"):
        in_cluster({}, tmp_path)

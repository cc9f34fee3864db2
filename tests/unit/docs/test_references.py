# SPDX-License-Identifier: Apache-2.0
"""The generated references are up to date, and describe every key and variable that is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import config_keys, generate, key_reader

REPOSITORY = Path(__file__).parents[3]
PACKAGES = "agent backend base cli cni etcd flannel hostnet ipam ovs_mesh".split()  # noqa: SIM905
NOT_OURS = {"PATH", "PATH_INFO"}


def product() -> str:
    files = [path for room in PACKAGES for path in sorted((REPOSITORY / room).rglob("*.py"))]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("name", generate.REFERENCES)
def test_reference_is_up_to_date(name: str) -> None:
    expected = generate.HEAD + generate.REFERENCES[name]()
    assert (generate.TARGET / name).read_text() == expected, "run python docs/generate.py"


def test_check_names_what_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "TARGET", tmp_path)
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    (tmp_path / "errors.md").write_text("old\n")
    assert generate.main(["--check"]) == 1
    assert "errors.md" in capsys.readouterr().err


@pytest.mark.parametrize("backend", config_keys.BACKENDS)
def test_every_option_of_a_backend_is_described(backend: str) -> None:
    assert set(key_reader.backend_keys(backend)) == set(config_keys.BACKENDS[backend])


def test_backends_are_all_described() -> None:
    from agent.backends import BACKENDS

    assert {*BACKENDS} - {"host-gw"} == set(config_keys.BACKENDS)


def test_every_key_of_the_cluster_config_is_described() -> None:
    text = (REPOSITORY / "ipam" / "network.py").read_text()
    read = set(re.findall(r'keys, "(\w+)"', text)) | {"Backend"}
    for name in set(re.findall(r'f"\{family\.prefix\}(\w+)"', text)):
        read |= {name, f"IPv6{name}"}
    assert len(read) > 10
    without_effect = {"EnableNFTables"}  # flanneld's; accepted as any unknown key is
    assert read | without_effect == set(config_keys.CLUSTER)


def test_every_cni_key_is_described() -> None:
    missing = set(key_reader.cni_keys()) - set(config_keys.CNI)
    assert missing == set()


def test_every_environment_variable_is_described() -> None:
    read = set(re.findall(r"(?:environ|environment)(?:\.\w+\(|\[)\"([A-Z_]+)\"", product()))
    documented = generate.flags()
    assert "FLATMESH_RUN_DIR" in read
    unknown = {n for n in read if not n.startswith("CNI_") and f"`{n}`" not in documented}
    assert unknown - NOT_OURS == set()


def test_files_that_are_listed_by_hand_are_named_in_the_code() -> None:
    text = product()
    assert [name for _, name, _ in generate.OTHER_FILES if f'"{name}"' not in text] == []

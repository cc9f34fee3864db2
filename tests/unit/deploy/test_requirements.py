# SPDX-License-Identifier: Apache-2.0
"""The locked requirements are those of setup.cfg, each with hashes, and name no place."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[3]
LOCKS = REPOSITORY / "deploy" / "requirements"
MEND = "run deploy/requirements/update"
DEBIAN = {"sys_platform": "linux", "python_version": "3.11", "implementation_name": "cpython"}


def locked(name: str) -> dict[str, Requirement]:
    """Each requirement by name; asserts that it has one version and hashes."""
    text = (LOCKS / name).read_text().replace("\\\n", " ")
    found: dict[str, Requirement] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split(" --hash=")
            assert hashes, f"{name}: {requirement}: no hash; {MEND}"
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest) for digest in hashes)
            one = Requirement(requirement.strip())
            assert str(one.specifier).startswith("=="), f"{name}: {one}; {MEND}"
            found[canonicalize_name(one.name)] = one
    return found


def wanted(*sections: tuple[str, str]) -> list[Requirement]:
    config = configparser.RawConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    lines = [line for where in sections for line in config[where[0]][where[1]].splitlines()]
    texts = (line.partition("#")[0].strip() for line in lines)
    return [Requirement(text) for text in texts if text]


HOST = ("options", "install_requires")
LAB = ("options.extras_require", "lab")


@pytest.mark.parametrize(
    ("name", "sections"), [("host.txt", [HOST]), ("lab.txt", [HOST, LAB])], ids=["host", "lab"]
)
def test_every_requirement_is_locked_to_a_release_that_setup_cfg_allows(
    name: str, sections: list[tuple[str, str]]
) -> None:
    there = locked(name)
    for requirement in wanted(*sections):
        one = there.get(canonicalize_name(requirement.name))
        assert one is not None, f"{name} lacks {requirement}: {MEND}"
        (pin,) = one.specifier
        assert requirement.specifier.contains(pin.version), f"{requirement} is {one}: {MEND}"
        marker = one.marker or Marker("python_version > '3'")
        assert marker.evaluate(dict(DEBIAN)), f"{one} is not for Debian 12: {MEND}"


def test_a_host_has_the_releases_that_the_lab_has() -> None:
    host, lab = locked("host.txt"), locked("lab.txt")
    assert {name: str(one) for name, one in host.items()} == {
        name: str(lab.get(name)) for name in host
    }


def test_no_place_of_packages_is_written_into_the_files() -> None:
    for path in LOCKS.iterdir():
        text = path.read_text()
        assert "://" not in text, path
        assert not re.search(r"--(extra-)?index-url [^-]|--find-links", text), path


def test_what_builds_the_wheels_is_locked_too() -> None:
    (pin,) = locked("build.txt")["setuptools"].specifier
    assert int(pin.version.split(".")[0]) >= 68

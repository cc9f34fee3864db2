# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.runtime.cni.conflist import choose, load, parse
from scheduler.runtime.errors import NetworkError

GOOD = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../x"}, "no name of a network"),
        ({"plugins": []}, "plugins is empty"),
        ({"plugins": [{"type": "/bin/sh"}]}, "no path"),
        ({"plugins": [{}]}, "without type"),
        ({"cniVersion": "2.0.0"}, "newer than 1.1.0"),
        ({"cniVersion": "one"}, "where"),
    ],
)
def test_what_is_wrong_in_a_conflist_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        parse(json.dumps({**GOOD, **change}), "where")


def test_the_newest_offered_version_that_we_speak_is_used() -> None:
    offered = {"cniVersions": ["0.4.0", "1.1.0", "1.0.0", "9.9.0"]}
    assert parse(json.dumps({**GOOD, **offered}), "x").version == "1.1.0"


def test_a_plugin_gets_only_the_arguments_that_it_declares() -> None:
    plugins = [{"type": "ptp"}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    config = parse(json.dumps({**GOOD, "plugins": plugins}), "x")
    args = {"portMappings": [{"hostPort": 1}], "bandwidth": {}}
    first = config.request(config.plugins[0], args, None)
    second = config.request(config.plugins[1], args, {"ips": []})
    assert first == {"type": "ptp", "cniVersion": "1.0.0", "name": "pods"}
    assert second["runtimeConfig"] == {"portMappings": [{"hostPort": 1}]}
    assert second["prevResult"] == {"ips": []}
    assert "capabilities" not in second


def test_a_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "00-broken.conflist").write_text("{")
    (tmp_path / "10-pods.conflist").write_text(json.dumps(GOOD))
    (tmp_path / "20-one.conf").write_text(json.dumps({"name": "one", "type": "ptp"}))
    found, problems = load(tmp_path)
    assert list(found) == ["pods", "one"]
    assert len(problems) == 1
    assert choose(tmp_path, ())[0].name == "pods"
    with pytest.raises(NetworkError, match="there are pods, one"):
        choose(tmp_path, ("other",))


def test_no_network_at_all_says_the_mend(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="copy a conflist there"):
        choose(tmp_path, ())

# SPDX-License-Identifier: Apache-2.0
"""The table of plugins is complete, and loads a plugin only when it is called.

That each module fits the protocol is tested in tests/unit/test_seams_are_type_checked.py.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import cni.install
from cni.plugin_table import PLUGINS


def test_every_installed_executable_has_a_plugin() -> None:
    assert set(PLUGINS) == set(cni.install.EXECUTABLES)


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_offers_every_command(name: str) -> None:
    plugin = PLUGINS[name]()
    for command in (plugin.add, plugin.delete, plugin.check, plugin.gc, plugin.status):
        assert callable(command)


def test_the_table_itself_loads_no_plugin() -> None:
    code = "import cni.plugin_table, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)
    loaded = json.loads(done.stdout)
    assert not {"cni.pod.plugin", "cni.ipam_plugin", "cni.flannel_alias.plugin"} & set(loaded)

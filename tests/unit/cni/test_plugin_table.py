"""The table of plugins: complete, lazy, and checked by mypy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import cni.install
from cni.plugin_table import PLUGINS

ROOT = Path(__file__).resolve().parents[3]
MODULES = {
    "flatmesh": "cni/pod/plugin.py",
    "flatmesh-ipam": "cni/ipam_plugin.py",
    "flannel": "cni/flannel_alias/plugin.py",
}
COMMANDS = ("add", "delete", "check", "gc", "status")


def mypy(original: Path, changed: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Mypy over the table, with one module replaced by a changed copy of it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--follow-imports=silent", f"--cache-dir={cache}"),
            *("--shadow-file", str(original), str(changed), "cni/plugin_table.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_installed_executable_has_a_plugin() -> None:
    assert set(PLUGINS) == set(cni.install.EXECUTABLES)


@pytest.mark.parametrize("name", MODULES)
def test_mypy_refuses_a_plugin_whose_function_is_renamed_or_changed(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.getbasetemp() / "mypy-cache-of-plugins"
    original = ROOT / MODULES[name]
    changed = tmp_path_factory.mktemp("mutation") / "changed.py"
    text = original.read_text()
    command = COMMANDS[len(name) % len(COMMANDS)]
    for before, after in (
        (f"def {command}(", f"def {command}_renamed("),
        (f"def {command}(request: CniRequest, ", f"def {command}("),
    ):
        assert before in text
        changed.write_text(text.replace(before, after, 1))
        done = mypy(original, changed, cache)
        assert 'expected "Plugin"' in done.stdout, done.stdout + done.stderr
    changed.write_text(text)
    done = mypy(original, changed, cache)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_table_loads_no_plugin() -> None:
    code = "import cni.plugin_table, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True)
    loaded = json.loads(done.stdout)
    assert not {"cni.pod.plugin", "cni.ipam_plugin", "cni.flannel_alias.plugin"} & set(loaded)

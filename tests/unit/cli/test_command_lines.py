# SPDX-License-Identifier: Apache-2.0
"""What all commands have: help with examples and exit statuses, near words, versions, man pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from agent.main import command as daemon
from base.command_line import (
    EXAMPLES,
    EXITS,
    does_something,
    epilog_parts,
    every_command,
    explained,
)
from base.version import UNKNOWN, commit_of_checkout
from cli import shell_files
from cli.main import cli
from cli.man_pages import COMMANDS, pages

ALL = [*every_command("flatmeshd", daemon), *every_command("flatmesh", cli)]
LEAVES = [pytest.param(one, id=name) for name, one in ALL if does_something(one)]


def run(command: click.Command, *arguments: str) -> str:
    return CliRunner().invoke(command, arguments, env={"COLUMNS": "80"}).output


@pytest.mark.parametrize("command", LEAVES)
def test_help_ends_with_exit_statuses_and_fits_the_screen(command: click.Command) -> None:
    text = run(command, "--help")
    assert "Exit status:" in text
    assert max(map(len, text.splitlines())) <= 80
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.envvar and not parameter.hidden:
            variables = parameter.envvar
            first = variables if isinstance(variables, str) else variables[0]
            assert f"env var: {first}" in " ".join(text.split())


@pytest.mark.parametrize("command", LEAVES)
def test_help_has_an_example_and_explains_each_option(command: click.Command) -> None:
    assert EXAMPLES in epilog_parts(command), "add @explained with an example"
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    assert [one.opts[0] for one in options if not one.help] == []


def test_no_command_uses_colours_where_they_are_not_wanted() -> None:
    argv = [sys.executable, "-c", "from cli.main import main; main()", "lab", "list", "--dir", "/x"]
    for wanted, variables in ((False, {"NO_COLOR": "1"}), (True, {})):
        environment = {**os.environ, "TERM": "xterm-256color", **variables}
        if wanted:
            environment.pop("NO_COLOR", None)
        shown = in_terminal(argv, environment)
        assert "NAME" in shown, shown
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown)
        assert ("\x1b[1m" in shown) or not wanted
    assert style_of("NO_COLOR") == "text"
    assert style_of("OTHER") == "\x1b[31mtext\x1b[0m"


def in_terminal(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a program writes to a terminal."""
    master, slave = os.openpty()
    with subprocess.Popen(argv, stdout=slave, stderr=slave, env=environment) as process:
        process.wait(timeout=60)
    os.close(slave)
    text = os.read(master, 1 << 16).decode()
    os.close(master)
    return text


def style_of(variable: str) -> str:
    """What click writes to a terminal in red."""
    code = (
        "import os, click\nfrom base.command_line import color_setting\n"
        "with click.Context(click.Command('x'), color=color_setting(os.environ)).scope():\n"
        "    click.secho('text', fg='red')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {variable: "1"}
    return in_terminal([sys.executable, "-c", code], environment).strip()


def test_what_is_explained_is_read_back() -> None:
    long = "a reason that is so long that it needs more than one line of the help that is shown"

    @explained("flatmesh x", "flatmesh x -o json", exits={1: long, 4: "four"})
    @click.command()
    def one() -> None:
        """A command."""

    parts = epilog_parts(one)
    assert parts[EXAMPLES] == ("flatmesh x", "flatmesh x -o json")
    assert parts[EXITS] == ("0  done", f"1  {long}", "2  wrong usage", "4  four")


@pytest.mark.parametrize(
    ("command", "arguments", "hint"),
    [
        (cli, ["leaze"], "Did you mean 'lease'?"),
        (cli, ["lease", "lst"], "Did you mean 'list'?"),
        (cli, ["lease", "list", "--etcd-prefx=x"], "'--etcd-prefix'"),
        (daemon, ["--log-format=jsn"], "did you mean 'json'? It is one of text, json"),
        (daemon, ["--log-level=x"], "It is one of debug, info, warning, error"),
    ],
)
def test_a_word_that_is_nearly_right_is_named(
    command: click.Command, arguments: Sequence[str], hint: str
) -> None:
    assert hint in run(command, *arguments)


def test_version_names_the_commit() -> None:
    for program, command in (("flatmesh", cli), ("flatmeshd", daemon)):
        words = run(command, "--version").split()
        assert words[0] == program
        assert words[2] == "(commit"


def test_the_commit_is_unknown_without_git(tmp_path: Path) -> None:
    assert commit_of_checkout(tmp_path) == UNKNOWN
    (tmp_path / ".git").mkdir()
    assert commit_of_checkout(tmp_path) == UNKNOWN


def test_each_command_has_a_man_page() -> None:
    made = {page.name: page for page in pages("flatmesh", cli, "0.1.0", COMMANDS)}
    assert set(made) == {name.replace(" ", "-") for name, _ in every_command("flatmesh", cli)}
    for page in made.values():
        assert page.text.startswith(".TH ")
        assert page.file == f"man1/{page.name}.1"
        # control lines are ours, with a space or nothing after the name of the macro
        assert not [line for line in page.text.splitlines() if line.startswith("'")]


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff (Debian: groff)")
def test_groff_reads_the_man_pages_without_a_warning() -> None:
    text = "".join(page.text for page in pages("flatmesh", cli, "0.1.0", COMMANDS))
    argv = ("groff", "-man", "-Tascii", "-ww", "-z")
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "incomplete", "expected"),
    [
        ([], "le", ["lease"]),
        (["lease"], "re", ["release", "reserve"]),
        (["lease", "list"], "--etcd-p", ["--etcd-prefix", "--etcd-password"]),
    ],
)
def test_words_are_completed(words: list[str], incomplete: str, expected: list[str]) -> None:
    found = ShellComplete(cli, {}, "flatmesh", "X").get_completions(words, incomplete)
    assert [item.value for item in found][:2] == expected


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_reads_the_completion(tmp_path: Path) -> None:
    shell_files.install(tmp_path / "share", tmp_path / "list")
    script = tmp_path / "share/bash-completion/completions/flatmesh"
    asked = subprocess.run(
        ["bash", "-c", f". {script} && complete -p flatmesh"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_flatmesh_completion" in asked.stdout


def test_an_uninstall_leaves_nothing_and_an_upgrade_removes_old_pages(tmp_path: Path) -> None:
    share, listing = tmp_path / "share", tmp_path / "list"
    share.mkdir()
    (share / "man").mkdir()
    shell_files.install(share, listing)
    old = share / "man/man1/flatmesh-gone.1"
    old.write_text("")
    listing.write_text(f"{old}\n{listing.read_text()}")
    shell_files.install(share, listing)
    assert not old.exists()
    for place in ("man/man8/flatmeshd.8", "zsh/site-functions/_flatmesh"):
        assert (share / place).is_file()
    foreign = share / "man/man8/foreign.8"
    foreign.write_text("")
    shell_files.uninstall(listing)
    left = set(tmp_path.rglob("*"))
    assert left == {share, share / "man", share / "man/man8", foreign}

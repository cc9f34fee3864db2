"""What all commands have: help with examples and exit statuses, near words, versions, man pages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from agent.main import command as daemon
from base.command_line import EXAMPLES, EXITS, epilog_parts, every_command, explained
from base.version import UNKNOWN, commit_of_checkout
from cli import shell_files
from cli.main import cli
from cli.man_pages import COMMANDS, pages

ALL = [*every_command("flatmeshd", daemon), *every_command("flatmesh", cli)]
LEAVES = [pytest.param(one, id=name) for name, one in ALL if not isinstance(one, click.Group)]


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

# SPDX-License-Identifier: Apache-2.0
"""What the command lines of flatmesh have in common: --help, --version, choices.

    @command("list")
    @explained("flatmesh lease list -o json", exits={3: "..."})
    ...

`explained` puts examples and exit statuses at the end of --help, in the man page and in
docs/reference: `epilog_parts` reads them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from textwrap import fill
from typing import Any, TypeVar

import click

from base.fields import nearest
from base.version import version_text

WIDTH = 76  # characters in a line of --help
FIRST, GOES_ON = "  ", "     "  # indentation
EXAMPLES, EXITS = "Examples:", "Exit status:"
USUAL = {
    0: "done",
    1: "failed: one line on stderr says what, where and how to mend it",
    2: "wrong usage",
}
"""What the exit statuses of a command mean where it does not say otherwise."""
Callback = TypeVar("Callback", bound=Callable[..., Any])
AnyCommand = TypeVar("AnyCommand", bound=click.Command)


class Choice(click.Choice[str]):
    """One of some words; for another one the nearest is named."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raise click.BadParameter for a word that is none of them."""
        try:
            return str(super().convert(value, param, ctx))
        except click.BadParameter:
            meant = nearest(str(value), [str(one) for one in self.choices])
            hint = f"did you mean {meant!r}? " if meant else ""
            text = f"{value!r}: {hint}It is one of {', '.join(self.choices)}"
            raise click.BadParameter(text, ctx, param) from None


def explained(
    *examples: str, exits: Mapping[int, str] | None = None
) -> Callable[[AnyCommand], AnyCommand]:
    """Add examples, and what the exit statuses mean, to a command.

    `exits` adds to what holds for all commands, or replaces it.
    """

    def decorate(command: AnyCommand) -> AnyCommand:
        meanings = {**USUAL, **(exits or {})}
        statuses = [
            fill(f"{number}  {meaning}", WIDTH, initial_indent=FIRST, subsequent_indent=GOES_ON)
            for number, meaning in sorted(meanings.items())
        ]
        parts = [[EXAMPLES, *(FIRST + one for one in examples)]] if examples else []
        parts.append([EXITS, *statuses])
        command.epilog = "\n\n".join("\n".join(["\b", *lines]) for lines in parts)
        return command

    return decorate


def epilog_parts(command: click.Command) -> dict[str, tuple[str, ...]]:
    """The lines of each part of what `explained` wrote."""
    parts = {}
    for block in filter(None, (command.epilog or "").split("\n\n")):
        text = block.removeprefix("\b\n").replace("\n" + GOES_ON, " ")
        title, *lines = text.splitlines()
        parts[title] = tuple(line.strip() for line in lines)
    return parts


def complete(command: AnyCommand) -> AnyCommand:
    """Show environment variables and exit statuses in --help, of all subcommands, too."""
    for _, one in every_command(command.name or "", command):
        if does_something(one) and one.epilog is None:
            explained()(one)
        for parameter in one.params:
            if isinstance(parameter, click.Option) and parameter.envvar and not parameter.hidden:
                parameter.show_envvar = True
    return command


def does_something(command: click.Command) -> bool:
    """Whether a command may be called without another word after it."""
    return not isinstance(command, click.Group) or command.invoke_without_command


def every_command(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with the words that call them."""
    yield name, command
    if isinstance(command, click.Group):
        for sub, one in sorted(command.commands.items()):
            yield from every_command(f"{name} {sub}", one)


def color_setting(environment: Mapping[str, str]) -> bool | None:
    """Whether click may use colours: False where NO_COLOR is set, else it looks at the terminal."""
    return False if environment.get("NO_COLOR") else None


def version_option(program: str) -> Callable[[Callback], Callback]:
    """Add `--version`, which names the commit, too."""

    def show(context: click.Context, _option: click.Parameter, *, value: bool) -> None:
        if value and not context.resilient_parsing:
            click.echo(f"{program} {version_text()}")
            context.exit()

    return click.option(
        "--version",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=lambda context, option, value: show(context, option, value=value),
        help="Show the version and the commit.",
    )

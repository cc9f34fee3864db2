# SPDX-License-Identifier: Apache-2.0
"""Man pages (man(7)), made from the commands: one for `flatmeshd`, one for each of `flatmesh`.

Own, since click-man writes no environment, examples and exit statuses, and does not escape text.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import click

from base.command_line import EXAMPLES, EXITS, epilog_parts

COMMANDS, DAEMONS = 1, 8  # sections of the manual


@dataclass(frozen=True, slots=True)
class ManPage:
    """One page."""

    name: str
    """`flatmesh-lease-list`."""
    section: int
    text: str

    @property
    def file(self) -> str:
        """Its place below `share/man`."""
        return f"man{self.section}/{self.name}.{self.section}"


def pages(
    name: str,
    command: click.Command,
    version: str,
    section: int,
    parent: click.Context | None = None,
) -> Iterator[ManPage]:
    """The page of a command, and those of all below it."""
    context = click.Context(command, parent, name, **command.context_settings)
    words = context.command_path.split()
    yield ManPage("-".join(words), section, "\n".join(_lines(context, version, section)) + "\n")
    if isinstance(command, click.Group):
        for sub, one in sorted(command.commands.items()):
            if not one.hidden:
                yield from pages(sub, one, version, section, context)


def _lines(context: click.Context, version: str, section: int) -> Iterator[str]:
    command, page = context.command, context.command_path.replace(" ", "-")
    yield f'.TH "{escape(page.upper())}" {section} "" "{escape(f"flatmesh {version}")}" "flatmesh"'
    yield from (".nh", ".ad l")  # names of variables are not hyphenated
    yield from (".SH NAME", rf"{escape(page)} \- {escape(summary(command))}")
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (".SH SYNOPSIS", rf".B {escape(context.command_path)}", escape(usage))
    yield from (".SH DESCRIPTION", *_paragraphs(command.help or ""))
    yield from _options(context)
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for sub, one in sorted(command.commands.items()):
            yield from (".TP", rf"\fB{escape(f'{page}-{sub}')}\fR({section})", escape(summary(one)))
    yield from _environment(command)
    parts = epilog_parts(command)
    if EXAMPLES in parts:
        yield from (".SH EXAMPLES", ".nf", *(escape(line) for line in parts[EXAMPLES]), ".fi")
    if EXITS in parts:
        yield ".SH EXIT STATUS"
        for line in parts[EXITS]:
            number, _, meaning = line.partition("  ")
            yield from (".TP", rf"\fB{number}\fR", escape(meaning))


def _options(context: click.Context) -> Iterator[str]:
    options = [p for p in context.command.get_params(context) if isinstance(p, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    if records:
        yield ".SH OPTIONS"
    for names, meaning in records:
        yield from (".TP", rf"\fB{escape(names)}\fR", *_paragraphs(meaning))


def _environment(command: click.Command) -> Iterator[str]:
    named = [
        (variable, option.opts[0])
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
        for variable in _variables(option)
    ]
    if named:
        yield ".SH ENVIRONMENT"
    for variable, flag in sorted(named):
        yield from (".TP", rf"\fB{escape(variable)}\fR", escape(f"as {flag}, which wins"))


def _variables(option: click.Option) -> list[str]:
    given = option.envvar
    return [given] if isinstance(given, str) else list(given or ())


def summary(command: click.Command) -> str:
    """The first sentence of the help, without its full stop."""
    paragraph = inspect.cleandoc(command.help or "").split("\n\n", 1)[0].replace("\n", " ")
    return paragraph.split(". ", 1)[0].removesuffix(".")


def _paragraphs(text: str) -> Iterator[str]:
    r"""Paragraphs; one that begins with \b keeps its lines."""
    for number, block in enumerate(filter(None, inspect.cleandoc(text).split("\n\n"))):
        if number:
            yield ".PP"
        if block.startswith("\b\n"):
            yield from (".nf", *(escape(line) for line in block.splitlines()[1:]), ".fi")
        else:
            yield escape(block.replace("\n", " "))


def escape(text: str) -> str:
    """Text without a meaning for troff: backslashes, hyphens, a control character at the start."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped

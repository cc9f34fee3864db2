# SPDX-License-Identifier: Apache-2.0
"""The references that come from the click commands: flags, exit statuses, fields of the output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from base.command_line import EXAMPLES, EXITS, USUAL, does_something, epilog_parts, every_command
from base.output import Column, OutputOption
from docs.markdown import table

EXIT_HEAD = """# Exit statuses

What `flatmesh` and `flatmeshd` return to the shell. CNI executables: see
[CNI error codes](errors.md); `deploy/install` returns 2 for wrong usage, and 1 when it failed.

0: done. 1: failed, and one line on stderr says what, where and how to mend it. 2: wrong usage.
Where a command has other meanings, or more of them:
"""
FLANNELD_HEAD = """## flanneld's flags that flatmeshd has not

Flags may be written as Go takes them, too: `-iface=eth0`, `-ip-masq`, `-v=5`. A flag that is
refused ends the daemon with status 2; `=false` of one that is true or false is accepted. A variable
that begins with `FLANNELD_` and is none of those on this page is named in the log.
"""
OUTPUT_HEAD = """# Fields of JSON and YAML

What `-o json` and `-o yaml` print: a list of objects with these fields, or where a command has
several parts, one object. Names stay as they are from version to version; new fields may be added.
Values are raw: numbers without units, null where there is none. Tables (`-o table`, `-o wide`) are
for people and may change.
"""


def programs() -> tuple[tuple[str, click.Command], ...]:
    """Both programs' commands, by the words that call them; groups are left out."""
    from agent.main import command  # noqa: PLC0415 - only these references need all of flatmesh
    from cli.main import cli  # noqa: PLC0415

    found = (*every_command("flatmeshd", command), *every_command("flatmesh", cli))
    return tuple((name, one) for name, one in found if does_something(one))


def flags_of_commands() -> Iterator[str]:
    """The parts of the reference of flags."""
    yield "# Flags and environment variables\n"
    hidden = []
    for name, one in programs():
        text = (one.help or "").split("\n\n", 1)[0].replace("\n", " ")
        yield f"## {name}\n\n{text}\n"
        if rows := list(_options(one)):
            yield table(("flag", "variable", "default", "meaning"), rows)
        if examples := epilog_parts(one).get(EXAMPLES):
            yield "\n".join(("Examples:\n", *(f"    {line}" for line in examples))) + "\n"
        if name == "flatmeshd":
            hidden = [p for p in one.params if isinstance(p, click.Option) and p.hidden]
    yield FLANNELD_HEAD
    lacking = ((f"`{p.opts[0]}`", f"`{p.envvar}`", p.help or "") for p in hidden)
    yield table(("flag", "variable", "what to do instead"), lacking)


def _options(command: click.Command) -> Iterator[tuple[str, str, str, str]]:
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            yield f"`{parameter.make_metavar(click.Context(command))}`", "", "", ""
            continue
        if parameter.hidden or "--version" in parameter.opts:
            continue
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        given = parameter.envvar
        variables = [given] if isinstance(given, str) else list(given or ())
        yield (
            names,
            ", ".join(f"`{variable}`" for variable in variables),
            _default(parameter),
            _meaning(parameter),
        )


def _default(option: click.Option) -> str:
    value = option.to_info_dict()["default"]
    if value is None or value == () or option.multiple or not str(value) or option.required:
        return "required" if option.required else ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`"


def _meaning(option: click.Option) -> str:
    kind = option.type
    choices = f" One of {', '.join(kind.choices)}." if isinstance(kind, click.Choice) else ""
    return f"{option.help or ''}{choices}{' Repeatable.' if option.multiple else ''}".strip()


def exit_statuses() -> str:
    """What each command's exit statuses mean."""
    usual = {f"{number}  {meaning}" for number, meaning in USUAL.items()}
    rows = [
        (f"`{name}`", *line.split("  ", 1))
        for name, one in programs()
        for line in epilog_parts(one).get(EXITS, ())
        if line not in usual
    ]
    return f"{EXIT_HEAD}\n{table(('command', 'status', 'meaning'), rows)}"


def output_fields() -> str:
    """The fields that each command's JSON and YAML have."""
    parts = [OUTPUT_HEAD]
    for name, one in programs():
        for option in one.params:
            if not isinstance(option, OutputOption):
                continue
            parts.append(f"## {name}\n")
            if option.columns:
                parts.append(_fields(option.columns))
            for section, columns in option.sections.items():
                parts += [f"`{section}`:\n", _fields(columns)]
    return "\n".join(parts)


def _fields(columns: Sequence[Column]) -> str:
    rows = ((f"`{column.field}`", column.meaning) for column in columns)
    return table(("field", "meaning"), rows)

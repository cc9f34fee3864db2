"""Write the reference pages from the code, so that they can't fall behind it.

    python docs/generate.py             writes docs/reference/*.md
    python docs/generate.py --check     exits with 1 when one of them is not what the code says

Flags and variables are read from the click commands, paths from `base.paths`, error codes from
`cni.errors`, metrics from the daemon's registry. Keys of the cluster config are found as they are
read: by the calls of `base.fields.Fields` and `_flag` in the modules of `READERS`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
HEAD = "<!-- written by docs/generate.py; change the code, then run it -->\n\n"
READERS = {
    "cluster": ["ipam/network.py"],
    "vxlan": ["flannel/vxlan.py"],
    "host-gw": ["flannel/host_gw.py"],
    "udp": ["flannel/udp/backend.py"],
    "wireguard": ["flannel/wireguard/config.py"],
    "ovs": ["ovs_mesh/config.py"],
}
SUBNET_KEYS = [
    (f"{prefix}{name}", kind, text)
    for prefix in ("", "IPv6")
    for name, kind, text in (
        ("Network", "network", "needed where the family is enabled"),
        ("SubnetLen", "number", "prefix length of one host's subnet: 24 (IPv6: 64) by default"),
        ("SubnetMin", "address", "base of the first subnet that may be leased"),
        ("SubnetMax", "address", "base of the last subnet that may be leased"),
    )
] + [("Backend", "object", "`Type` and the keys below; `udp` by default, as flanneld's")]
"""Read by one function for both families, so not found by their names."""
READING = {"text", "flag", "number", "choice", "objects", "_flag"}


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """The command and all below it, with their full names."""
    yield path, command
    if isinstance(command, click.Group):
        for name, sub in sorted(command.commands.items()):
            yield from commands(sub, f"{path} {name}")


def flags() -> str:
    """All commands with their flags and environment variables."""
    from agent.main import command  # noqa: PLC0415 - needs the package installed
    from cli.main import cli  # noqa: PLC0415

    lines = ["# Commands, flags and environment variables\n"]
    for path, one in [*commands(command, "flatmeshd"), *commands(cli, "flatmesh")]:
        lines += [f"\n## {path}\n", f"{(one.help or '').strip().splitlines()[0]}\n"]
        options = [p for p in one.params if isinstance(p, click.Option) and not p.hidden]
        if options:
            lines += ["\n| flag | variable | default | meaning |", "|---|---|---|---|"]
        for option in options:
            variables = option.envvar or ()
            names = [variables] if isinstance(variables, str) else list(variables)
            default = "" if option.default is None or callable(option.default) else option.default
            default = "" if default in ((), [], False) or "Sentinel" in repr(default) else default
            lines.append(
                f"| `{' '.join(option.opts)}` | {', '.join(f'`{n}`' for n in names)} "
                f"| {f'`{default}`' if default != '' else ''} | {option.help or ''} |"
            )
    return "\n".join(lines) + "\n"


def config_keys() -> str:
    """The keys of the cluster config, by who reads them."""
    lines = [
        "# Keys of the cluster config\n",
        "One JSON document at `<prefix>/config`; names match without regard to case, and unknown",
        "keys are accepted. Keys of a backend stand in the `Backend` object, beside `Type`.\n",
    ]
    for owner, paths in READERS.items():
        where = "top level" if owner == "cluster" else f'`Backend`, `"Type":"{owner}"`'
        lines += [
            f"\n## {owner}: {where}\n",
            "| key | reader | default and limits |",
            "|---|---|---|",
        ]
        rows = sorted(
            {
                *(SUBNET_KEYS if owner == "cluster" else ()),
                *(row for path in paths for row in keys_read(ROOT / path)),
            }
        )
        lines += [f"| `{name}` | {reader} | {rest} |" for name, reader, rest in rows]
    return "\n".join(lines) + "\n"


def keys_read(path: Path) -> Iterator[tuple[str, str, str]]:
    """(key, kind of value, the other arguments) of each call that reads a key."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        reader = (
            function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        )
        names = [a for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if reader not in READING or not names:
            continue
        given = [
            ast.unparse(a) for a in node.args if a is not names[0] and not isinstance(a, ast.Name)
        ]
        given += [f"{k.arg} {ast.unparse(k.value)}" for k in node.keywords]
        yield names[0].value, reader.lstrip("_"), ", ".join(f"`{text}`" for text in given)


def paths() -> str:
    """Paths and file names."""
    lines = ["# Paths and files\n", "| name | value | meaning |", "|---|---|---|"]
    body = ast.parse((ROOT / "base" / "paths.py").read_text()).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        name = ast.unparse(node.targets[0])
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        lines.append(f"| `{name}` | `{node.value.value}` | {text} |")
    return "\n".join(lines) + "\n"


def errors() -> str:
    """The codes of the CNI executables' error objects."""
    lines = [
        "# Error codes of the CNI executables\n",
        "Below 100 they are those of the CNI specification (1.1.0, section 5).\n",
        "| code | name | when |",
        "|---|---|---|",
    ]
    for line in (ROOT / "cni" / "errors.py").read_text().splitlines():
        name, equals, rest = line.partition(" = ")
        number, _, comment = rest.partition("#")
        if equals and name.isupper() and number.strip().isdigit():
            lines.append(f"| {number.strip()} | `{name}` | {comment.strip()} |")
    return "\n".join(lines) + "\n"


def metrics() -> str:
    """What /metrics shows, whichever backend runs."""
    found: dict[str, str] = {}
    for path in sorted([*(ROOT / "agent").rglob("*.py"), *(ROOT / "ovs_mesh").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            kind = getattr(node.func, "id", "")
            first = node.args[0]
            if not isinstance(first, ast.Constant) or kind not in KINDS:
                continue
            name = str(first.value)
            gauge = any(k.arg == "gauge" for k in node.keywords)
            if kind == "MetricSample":
                name, kind = f"flatmesh_{name}", "Gauge" if gauge else "Counter"
            text = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            found[name + ("_total" if kind == "Counter" else "")] = f"{kind.lower()} | {text}"
    lines = [
        "# Metrics\n",
        "At `/metrics` of the health port. The udp backend adds `flatmesh_udp_*`, which",
        "[udp.md](../udp.md) explains.\n",
        "| name | type | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {rest} |" for name, rest in sorted(found.items())]
    return "\n".join(lines) + "\n"


KINDS = {"Counter", "Gauge", "Histogram", "MetricSample"}
PAGES = {
    "flags.md": flags,
    "config-keys.md": config_keys,
    "paths.md": paths,
    "errors.md": errors,
    "metrics.md": metrics,
}


def main() -> int:
    """Write or check all pages; the exit status."""
    check = sys.argv[1:] == ["--check"]
    REFERENCE.mkdir(exist_ok=True)
    stale = []
    for name, make in PAGES.items():
        path, text = REFERENCE / name, HEAD + make()
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        print(f"docs/reference/ is stale: {', '.join(stale)}; run python docs/generate.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

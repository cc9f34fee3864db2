# SPDX-License-Identifier: Apache-2.0
"""Find in the source which config keys are read, with type, default and limits."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docs.config_keys import Key

REPOSITORY = Path(__file__).parents[1]
TYPES = {
    "flag": "boolean",
    "number": "integer",
    "number_within": "integer",
    "text": "string",
    "texts": "list of strings",
    "choice": "string",
    "objects": "list of objects",
    "section": "object",
    "optional_section": "object",
    "sections": "list of objects",
    "absolute_path": "path",
    "cidr": "CIDR",
    "address": "address",
    "value": "",
    "get": "",
}
FUNCTIONS = {"_address_inside": 1, "_cni_args": 1, "_capability": 1}
"""Functions of `cni.config` that read a key: the place of its name in their arguments."""
BACKEND_FILES = {
    "vxlan": "flannel/vxlan.py",
    "udp": "flannel/udp/**/*.py",
    "wireguard": "flannel/wireguard/**/*.py",
    "ovs": "ovs_mesh/**/*.py",
}
OPTIONS = {"options", "rule"}
"""Names of variables that hold a backend's options."""


def backend_keys(backend: str) -> dict[str, Key]:
    """The keys that a backend reads."""
    keys: dict[str, Key] = {}
    for path in sorted(REPOSITORY.glob(BACKEND_FILES[backend])):
        tree = ast.parse(path.read_text())
        for call, name in _reads(tree):
            function = call.func
            if isinstance(function, ast.Attribute) and _name(function.value) in OPTIONS:
                keys[name] = _described(call, function.attr, _constants(tree))
    return keys


def cni_keys() -> dict[str, Key]:
    """The keys that the CNI plugins read."""
    keys: dict[str, Key] = {}
    for path in sorted((REPOSITORY / "cni" / "config").glob("*.py")):
        if path.name == "environment.py":
            continue
        tree = ast.parse(path.read_text())
        for call, name in _reads(tree):
            method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if name not in keys or not keys[name].type:
                keys[name] = _described(call, method, _constants(tree))
    return keys


def _reads(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        place = 0
        if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            place = FUNCTIONS[node.func.id]
        elif not isinstance(node.func, ast.Attribute) or node.func.attr not in TYPES:
            continue
        if len(node.args) > place:
            argument = node.args[place]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                if argument.value.startswith(("CNI_", "FLATMESH_")):
                    continue
                yield node, argument.value


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _constants(tree: ast.Module) -> dict[str, str]:
    """Literals that are assigned at the top of a module, as a reader would write them."""
    found: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            names, values = [target], [node.value]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                names, values = target.elts, node.value.elts
            for one, value in zip(names, values, strict=True):
                if isinstance(one, ast.Name):
                    found[one.id] = _text(value, found)
    return found


def _text(node: ast.expr | None, constants: dict[str, str]) -> str:
    match node:
        case ast.Constant(value=bool() as value):
            return str(value).lower()
        case ast.Constant(value=value):
            return str(value) if value not in (None, "") else ""
        case ast.Name(id=name):
            return constants.get(name, "")
        case ast.Tuple(elts=elements):
            return ", ".join(_text(e, constants) for e in elements)
        case ast.BinOp(left=ast.BinOp(op=ast.Pow()), op=ast.Sub()):
            return ast.unparse(node).replace(" ** ", "^").replace(" ", "")
    return ""


def _described(call: ast.Call, method: str, constants: dict[str, str]) -> Key:
    words = {k.arg: _text(k.value, constants) for k in call.keywords}
    rest = [_text(argument, constants) for argument in call.args[1:]]
    default = words.get("default", "")
    limits = ""
    if method == "flag":
        default = default or "false"
    elif method == "number":
        default = rest[0] if rest else ""
        limits = f"{words['minimum']} to {words['maximum']}" if "maximum" in words else ""
    elif method == "number_within":
        limits = f"{rest[0]} to {rest[1]}"
    elif method == "choice":
        default, limits = rest[1], rest[0]
    elif method == "text":
        default = rest[0] if rest else ""
    return Key("", TYPES.get(method, ""), default, limits)

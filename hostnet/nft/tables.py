# SPDX-License-Identifier: Apache-2.0
"""nftables through libnftables, in-process: a whole table is replaced in one transaction.

Theory of operation
-------------------
`nft -f -` costs 16-20 ms for its process alone; the same text handed to libnftables costs
0.1 ms. A context's socket belongs to the network namespace it was made in, and some look-ups
open sockets of their own, so everything runs in a thread inside the namespace.

Is a table still as we wrote it? The kernel keeps no text: what `nft list` prints is nft's
own normal form. So the wanted text is brought into that form too, by loading it once into a
namespace that exists only for this, and the two listings are compared (stateless: without
counters). That needs no memory of what was applied, and so survives restarts. For it to
work a table must name devices by `iifname`/`oifname`, never by `iif`/`oif` (an index). A hook of a
device, and `fwd`, do have an index: the namespace gets devices of these names.

Pods are elements of sets and maps, not rules: an element costs the same with 500 others.

Sources: libnftables(3), nft(8).
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from base.errors import FlatmeshError
from hostnet.kinds.link_messages import add_link, settings
from hostnet.netlink.socket import NetlinkError, NetlinkSocket
from hostnet.netns import NetnsRef, run_in, run_in_new
from hostnet.nft.names import names_in_table, table_names

LIBRARY = "libnftables.so.1"
DESCRIPTORS = 8
"""As many descriptors, and more, as a call of libnftables opens at a time."""
# NFT_CTX_OUTPUT_*, nftables/libnftables.h
_STATELESS, _NUMERIC_PRIO, _TERSE = 1 << 2, 1 << 8, 1 << 11
_ONE_AT_A_TIME = threading.Lock()  # libnftables keeps its cache of device names in a static


class NftError(FlatmeshError):
    """nft refused a text, or libnftables is missing; the message is one line."""


class NftMissingError(NftError):
    """There is no libnftables on this host."""


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise NftMissingError(
            f"{LIBRARY} is not installed: install it (Debian: apt install libnftables1), "
            "or run without masquerading"
        ) from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    return library


def run(commands: str, netns: NetnsRef | None = None, *, terse: bool = False) -> str:
    """Do `commands` (nft(8) syntax) as one transaction: all of it or nothing.

    Returns what nft prints; with `terse`, named sets without their elements, which are not even
    read. Raises NftError, NftMissingError, NetnsError.
    """
    return run_in(netns, lambda: _run(commands, terse=terse))


def replace_table(
    family: str, name: str, body: str, netns: NetnsRef | None = None, keep: Collection[str] = ()
) -> None:
    """Make the table exactly this, but for the sets and maps named in `keep`.

    `body` is what stands between the braces of `table FAMILY NAME { ... }` in nft(8) syntax.
    Kept sets keep their elements, and no packet finds one empty. Where some are kept, counters that
    the body declares again keep their values. Raises NftError.
    """

    def replace() -> None:
        there = names_in_table(family, name) if keep else []
        _run(_replacement(family, name, body, there, keep))

    run_in(netns, replace)


def _replacement(
    family: str,
    name: str,
    body: str,
    found: Sequence[tuple[str, str]] = (),
    keep: Collection[str] = (),
) -> str:
    """Commands that take out all but the kept sets of what was found, and put in the body."""
    table = f"{family} {name}"
    commands = [f"add table {table}"]
    if found:
        commands.append(f"flush table {table}")  # rules first: chains jump to chains
        commands += [f"delete chain {table} {one}" for kind, one in found if kind == "chain"]
        commands += [
            f"delete {kind} {table} {one}"
            for kind, one in found
            if kind in ("set", "map") and one not in keep
        ]
        # a counter that is still declared goes on counting
        wanted = {one for kind, one in _BLOCK.findall(body) if kind == "counter"}
        commands += [
            f"delete counter {table} {one}"
            for kind, one in found
            if kind == "counter" and one not in wanted
        ]
    else:
        commands.append(f"delete table {table}")
    return "\n".join([*commands, f"table {table} {{\n{body}\n}}\n"])


def replacement_line(family: str, name: str, body: str) -> str:
    """What `replace_table` does, as one command for people: sets keep their elements, too."""
    table = f"{family} {name}"
    text = re.sub(r",\s*\n\s*", ", ", body.strip())  # elements may take several lines
    text = " ".join(text.replace("\n", " ; ").split())
    text = text.replace("{ ;", "{").replace("; ;", ";").strip(" ;")
    return f"nft add table {table} ; flush table {table} ; table {table} {{ {text} ; }}"


_BLOCK = re.compile(r"^\s*(chain|set|map|counter)\s+(\S+)\s*\{", re.MULTILINE)


def without_sets(body: str, names: Collection[str]) -> str:
    """A body in nft's normal form without the blocks of these sets and maps."""
    lines, skipping = [], False
    for line in body.splitlines():
        match = _BLOCK.match(line)
        if match and match[1] in ("set", "map") and match[2] in names:
            skipping = True
        if not skipping:
            lines.append(line)
        if skipping and line == "\t}":
            skipping = False
    return "\n".join(lines).strip("\n")


def delete_table(family: str, name: str, netns: NetnsRef | None = None) -> None:
    """Delete the table; that there is none is no error. Raises NftError."""
    run(f"add table {family} {name}\ndelete table {family} {name}\n", netns)


def list_tables(netns: NetnsRef | None = None) -> set[tuple[str, str]]:
    """Family and name of all tables. Raises NftError."""
    _library()
    try:
        return run_in(netns, table_names)
    except NetlinkError as error:
        raise NftError(str(error)) from None


def list_table(family: str, name: str, netns: NetnsRef | None = None) -> str | None:
    """A table's body in nft's normal form, counters left out; None when there is none."""
    if (family, name) not in list_tables(netns):
        return None
    return _body(run(f"list table {family} {name}\n", netns))


def dump(
    keys: Iterable[tuple[str, str]],
    netns: NetnsRef | None,
    with_elements: Collection[tuple[str, str]] = (),
) -> dict[tuple[str, str], str]:
    """The bodies, in nft's normal form, of those tables (family, name) that are there.

    Elements of named sets are read for the tables `with_elements` only: 200,000 of them take nft a
    minute. Where libnftables is missing there is nothing to see. Raises NftError.
    """
    wanted = set(keys)
    if not wanted:
        return {}
    try:
        there = list_tables(netns)
    except NftMissingError:
        return {}
    return {
        key: _body(run(f"list table {' '.join(key)}\n", netns, terse=key not in with_elements))
        for key in sorted(wanted & there)
    }


@functools.lru_cache(maxsize=64)
def normal_form(family: str, name: str, body: str, sets: tuple[str, ...] = ()) -> str:
    """The body as `nft list` would print it; empty for a text that nft refuses.

    `sets` are the commands that declare what the body refers to without declaring it.
    """

    def load() -> str:
        _make_devices(set(_DEVICE.findall(body)))
        _run(f"add table {family} {name}\n" + "".join(f"{one}\n" for one in sets))
        listing = _run(f"list table {family} {name}\n") if sets else ""
        found = _BLOCK.findall(listing)
        kept = {one for kind, one in found if kind in ("set", "map")}
        _run(_replacement(family, name, body, found, kept))
        return _body(_run(f"list table {family} {name}\n"))

    try:
        return run_in_new(load)
    except NftError:
        return ""


_DEVICE = re.compile(r'\b(?:device|fwd to) "([^"]+)"')


def _make_devices(names: Collection[str]) -> None:
    """Have devices that a text names by hook or by `fwd`: the kernel looks for them."""
    if not names:
        return
    with NetlinkSocket(None) as sock:
        for one in sorted(names):
            request = add_link("bridge", settings(name=one))
            sock.request(request, f"ip link add {one} type bridge")


def _body(listing: str) -> str:
    """What stands between a listing's outer braces, or nothing."""
    lines = listing.strip().splitlines()
    return "\n".join(lines[1:-1])


def _run(commands: str, *, terse: bool = False) -> str:
    library = _library()
    with _ONE_AT_A_TIME:
        _require_descriptors()
        context = library.nft_ctx_new(0)
        if not context:
            raise NftError("libnftables can't open a netlink socket")
        try:
            library.nft_ctx_buffer_output(context)
            library.nft_ctx_buffer_error(context)
            flags = _STATELESS | _NUMERIC_PRIO | (_TERSE if terse else 0)
            library.nft_ctx_output_set_flags(context, flags)
            failed = library.nft_run_cmd_from_buffer(context, commands.encode())
            if failed:
                text = library.nft_ctx_get_error_buffer(context).decode(errors="replace")
                raise NftError(_first_error(text))
            return str(library.nft_ctx_get_output_buffer(context).decode(errors="replace"))
        finally:
            library.nft_ctx_free(context)


def _require_descriptors() -> None:
    """Raise NftError when libnftables could not open its sockets.

    It ends the whole process then (`exit()` in its netlink_init_error), instead of saying so.
    Another thread may take the last descriptors in the microseconds between this and its call;
    keeping some in reserve would leave the same gap.
    """
    opened: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            opened.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401
    except OSError as error:
        raise NftError(f"nft: no descriptors left for it: {error.strerror}") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _first_error(text: str) -> str:
    """Squeeze nft's report (place, message, the line, a row of carets) into one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ^~\t")]
    return "nft: " + ("; ".join(lines[:2]) if lines else "refused without a reason")

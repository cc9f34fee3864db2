# SPDX-License-Identifier: Apache-2.0
"""What a call must hold, and the code of each fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from cni import versions
from cni.config.call import CniCall
from cni.config.request import MAX_STDIN, parse_request, stated_version
from cni.errors import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    CniError,
)

ADD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}
CONF = {"cniVersion": "1.0.0", "name": "pods", "type": "flatmesh"}


def call(
    environment: Mapping[str, str] | None = None, conf: Any = None, stdin: bytes | None = None
) -> CniCall:
    text = json.dumps(CONF if conf is None else conf).encode() if stdin is None else stdin
    return CniCall("flatmesh", ADD if environment is None else environment, text)


def refusal(
    environment: Mapping[str, str] | None = None, conf: Any = None, stdin: bytes | None = None
) -> CniError:
    with pytest.raises(CniError) as caught:
        parse_request(call(environment, conf, stdin))
    return caught.value


def test_a_good_add_is_read_whole() -> None:
    request = parse_request(
        call({**ADD, "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.1.0.9"})
    )
    assert (request.command, request.version) == ("ADD", "1.0.0")
    assert request.attachment == ("pods", "c1", "eth0")
    assert (request.arguments or {})["IP"] == "10.1.0.9"
    assert "MAC" not in (request.arguments or {})
    assert request.cni_path == ("/opt/cni/bin", "/usr/lib/cni")


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_every_missing_variable_is_named(command: str) -> None:
    error = refusal({"CNI_COMMAND": command})
    assert error.code == INVALID_ENVIRONMENT
    for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
        assert name in error.message


def test_del_needs_no_netns() -> None:
    environment = {k: v for k, v in ADD.items() if k != "CNI_NETNS"} | {"CNI_COMMAND": "DEL"}
    assert parse_request(call(environment)).netns == ""


def test_gc_needs_the_path_and_status_nothing() -> None:
    conf = {**CONF, "cniVersion": "1.1.0"}
    assert "CNI_PATH" in refusal({"CNI_COMMAND": "GC"}, conf).message
    assert parse_request(call({"CNI_COMMAND": "STATUS"}, conf)).command == "STATUS"


@pytest.mark.parametrize("command", ["", "add", "REMOVE"])
def test_unknown_commands_are_code_4(command: str) -> None:
    assert refusal({**ADD, "CNI_COMMAND": command}).code == INVALID_ENVIRONMENT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_CONTAINERID", "é"),
        ("CNI_CONTAINERID", "a\n"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "sixteen-letters-"),
    ],
)
def test_bad_names_are_code_4(name: str, value: str) -> None:
    error = refusal({**ADD, name: value})
    assert error.code == INVALID_ENVIRONMENT
    assert name in error.message


def test_two_bad_variables_are_both_named() -> None:
    error = refusal({**ADD, "CNI_CONTAINERID": "/", "CNI_IFNAME": "/"})
    assert "CNI_CONTAINERID" in error.message
    assert "CNI_IFNAME" in error.message


def test_malformed_cni_args_are_code_4() -> None:
    assert refusal({**ADD, "CNI_ARGS": "IgnoreUnknown"}).code == INVALID_ENVIRONMENT


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_code_6(stdin: bytes) -> None:
    assert refusal(stdin=stdin).code == DECODING_FAILURE


def test_a_huge_stdin_is_code_6() -> None:
    assert refusal(stdin=b" " * (MAX_STDIN + 1)).code == DECODING_FAILURE


@pytest.mark.parametrize("name", [None, "", "a/b", "-x", "a b", 7, ["x"]])
def test_bad_network_names_are_code_7(name: object) -> None:
    assert refusal(conf={**CONF, "name": name}).code == INVALID_CONFIG


@pytest.mark.parametrize("version", ["2.0.0", "1", "latest", "0.5.0", 1, ["1.0.0"], "1.0.0 "])
def test_unknown_versions_are_code_1(version: object) -> None:
    assert refusal(conf={**CONF, "cniVersion": version}).code == INCOMPATIBLE_VERSION


def test_a_config_without_version_is_of_0_1_0() -> None:
    assert parse_request(call(conf={"name": "pods", "type": "flatmesh"})).version == "0.1.0"


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_commands_exist_from_their_version_on(version: str) -> None:
    conf = {**CONF, "cniVersion": version}
    for command, since in (("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")):
        environment = {**ADD, "CNI_COMMAND": command}
        if versions.at_least(version, since):
            assert parse_request(call(environment, conf)).command == command
        else:
            assert refusal(environment, conf).code == INCOMPATIBLE_VERSION


def test_version_takes_anything_and_echoes() -> None:
    environment = {"CNI_COMMAND": "VERSION"}
    assert parse_request(call(environment, stdin=b"")).version == versions.NEWEST
    assert parse_request(call(environment, stdin=b"{}")).version == versions.NEWEST
    assert parse_request(call(environment, {"cniVersion": "9.9.9"})).version == "9.9.9"


def test_gc_wants_the_list_of_valid_attachments() -> None:
    gc = {"CNI_COMMAND": "GC", "CNI_PATH": "/x"}
    conf = {**CONF, "cniVersion": "1.1.0"}
    with pytest.raises(CniError, match="valid-attachments"):
        parse_request(call(gc, conf)).valid_attachments()
    for bad in ("x", {"containerID": "a"}, [{"containerID": "a"}], ["a"]):
        with pytest.raises(CniError, match="valid-attachments"):
            parse_request(call(gc, {**conf, "cni.dev/valid-attachments": bad})).valid_attachments()
    request = parse_request(
        call(gc, {**conf, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]})
    )
    assert request.valid_attachments() == {("a", "eth0")}
    empty = parse_request(call(gc, {**conf, "cni.dev/valid-attachments": []}))
    assert empty.valid_attachments() == frozenset()


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{"cniVersion":7}', versions.NEWEST),
        (b"{", versions.NEWEST),
        (b"[]", versions.NEWEST),
    ],
)
def test_an_error_names_the_version_of_the_request(stdin: bytes, version: str) -> None:
    assert stated_version(stdin) == version

# SPDX-License-Identifier: Apache-2.0
"""What needs no etcd: endpoints, certificate files, the source of the messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from etcd import etcd_pb2
from etcd.channel import targets
from etcd.client import Etcd, EtcdError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        (["http://10.0.0.1:2379"], ["ipv4:10.0.0.1:2379"]),
        (
            ["http://10.0.0.1:2379/", "http://10.0.0.2:4001"],
            ["ipv4:10.0.0.1:2379,10.0.0.2:4001"],
        ),
        (["http://[fd00::1]:2379", "http://[::1]:1"], ["ipv6:[fd00::1]:2379,[::1]:1"]),
        (["http://etcd:2379"], ["dns:///etcd:2379"]),
        (
            ["http://etcd:2379", "http://10.0.0.1:2379", "http://[fd00::1]:2379"],
            ["dns:///etcd:2379", "ipv4:10.0.0.1:2379", "ipv6:[fd00::1]:2379"],
        ),
    ],
)
def test_plain_endpoints(endpoints: list[str], expected: list[str]) -> None:
    assert targets(endpoints) == (expected, False)


def test_tls_members_have_a_channel_each_since_each_has_its_own_certificate() -> None:
    assert targets(["https://10.0.0.1:2379", "https://10.0.0.2:2379"]) == (
        ["ipv4:10.0.0.1:2379", "ipv4:10.0.0.2:2379"],
        True,
    )


@pytest.mark.parametrize(
    "endpoints",
    [
        [],
        [""],
        ["10.0.0.1:2379"],
        ["http://10.0.0.1"],
        ["ftp://10.0.0.1:2379"],
        ["http://:2379"],
        ["http://10.0.0.1:port"],
        ["http://10.0.0.1:99999"],
        ["http://[fd00::1:2379"],
        ["http://10.0.0.1:2379", "https://10.0.0.1:2379"],
    ],
)
def test_unusable_endpoints_are_one_line(endpoints: list[str]) -> None:
    with pytest.raises(EtcdError) as refusal:
        targets(endpoints)
    assert "http" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_unreadable_certificate_files_are_named(tmp_path: Path) -> None:
    binary = tmp_path / "ca.der"
    binary.write_bytes(b"\x30\x82")
    url = ["https://10.0.0.1:2379"]
    with pytest.raises(EtcdError, match=r"absent\.pem: No such file"):
        Etcd(url, ca=tmp_path / "absent.pem")
    with pytest.raises(EtcdError, match=r"ca\.der is not PEM"):
        Etcd(url, ca=binary)
    with pytest.raises(EtcdError, match="--etcd-certfile and --etcd-keyfile go together"):
        Etcd(url, cert=binary)


def test_generated_code_is_of_the_proto_that_is_here(tmp_path: Path) -> None:
    """Regenerate: python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. etcd/etcd.proto."""
    out = tmp_path / "descriptors"
    command = ["protoc", f"-I{ROOT}", f"--descriptor_set_out={out}", str(ROOT / "etcd/etcd.proto")]
    assert protoc.main(command) == 0
    compiled = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    checked_in = descriptor_pb2.FileDescriptorProto()
    etcd_pb2.DESCRIPTOR.CopyToProto(checked_in)
    compiled.ClearField("source_code_info")
    for message in compiled.message_type:  # protoc notes what follows from the names
        for each in message.field:
            each.ClearField("json_name")
    assert compiled == checked_in

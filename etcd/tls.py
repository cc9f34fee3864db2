# SPDX-License-Identifier: Apache-2.0
"""The certificate files of a TLS connection to etcd, as they are on disk now."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from etcd.errors import EtcdError

Pem = tuple[bytes | None, bytes | None, bytes | None]
"""CA, private key, certificate: the order of `grpc.ssl_channel_credentials`."""

CERTIFICATE, PRIVATE_KEY = b"CERTIFICATE", b"PRIVATE KEY"
"""In the first line of what a PEM file holds (RFC 7468)."""
ENCRYPTED = (b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED")
REFUSED_CERTIFICATE = "it refused our certificate"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the PEM files are; None: gRPC's own CAs, or no certificate of ours."""

    ca: Path | None
    cert: Path | None
    key: Path | None

    def __post_init__(self) -> None:
        """Raise EtcdError when there is a certificate without a key, or the reverse."""
        if (self.cert is None) != (self.key is None):
            raise EtcdError("--etcd-certfile and --etcd-keyfile go together: give both or neither")

    def read(self) -> Pem:
        """Read all of them. Raises EtcdError for a file that is absent, or can't be used."""
        ca = _read("--etcd-cafile", self.ca, CERTIFICATE)
        key = _read("--etcd-keyfile", self.key, PRIVATE_KEY)
        cert = _read("--etcd-certfile", self.cert, CERTIFICATE)
        if key is not None and any(mark in key for mark in ENCRYPTED):
            raise EtcdError(
                f"--etcd-keyfile {self.key}: the key is encrypted, and nobody can type its "
                f"password here: openssl pkey -in {self.key} -out KEYFILE"
            )
        self._require_usable()
        return ca, key, cert

    def _require_usable(self) -> None:
        """What gRPC does not say: it takes whatever it is given, and then nobody answers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        what = f"--etcd-cafile {self.ca}"
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
            what = f"--etcd-certfile {self.cert}, --etcd-keyfile {self.key}"
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            reason = (error.reason if isinstance(error, ssl.SSLError) else error.strerror) or ""
            if reason == "KEY_VALUES_MISMATCH":
                text = f"--etcd-keyfile {self.key} is not the key of --etcd-certfile {self.cert}"
                raise EtcdError(f"{text}: give the two that were made together") from None
            why = (reason or "no certificate in it").lower().replace("_", " ")
            raise EtcdError(f"{what}: not usable ({why}): is the PEM file complete?") from None

    def refusal(self, reason: str) -> str:
        """Why TLS failed and what to do about it, from gRPC's last words."""
        ca = f"--etcd-cafile {self.ca}"
        known = {
            "certificate has expired": "its certificate has expired: renew it on etcd's hosts",
            "not yet valid": "its certificate is not valid yet: is this host's clock right?",
            "Hostname Verification": "its certificate is not for the host in the URL: "
            "write the name or address that the certificate has",
            "CERTIFICATE_VERIFY_FAILED": f"its certificate is signed by no CA in {ca}: "
            "give the CA that signed it"
            if self.ca
            else "its certificate is signed by no CA known here: give that CA with --etcd-cafile",
            REFUSED_CERTIFICATE: f"it refused our certificate {self.cert}: has it expired, or "
            "another CA than etcd's --trusted-ca-file?"
            if self.cert
            else "it wants a client certificate: give --etcd-certfile and --etcd-keyfile",
        }
        found = next((text for words, text in known.items() if words in reason), None)
        return found or f"{reason}; check --etcd-cafile, --etcd-certfile and --etcd-keyfile"


def _read(flag: str, path: Path | None, wanted: bytes) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EtcdError(f"{flag} {path}: {error.strerror}") from None
    if b"-----BEGIN" not in content:
        raise EtcdError(f"{flag} {path} is not PEM: convert it with openssl")
    if wanted not in content:
        kind = wanted.decode().lower()
        raise EtcdError(f"{flag} {path}: no {kind} in this file: was another one given by mistake?")
    return content

"""The certificate files of a TLS connection to etcd, as they are on disk now."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from etcd.errors import EtcdError

Pem = tuple[bytes | None, bytes | None, bytes | None]
"""CA, private key, certificate: the order of `grpc.ssl_channel_credentials`."""


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
        content = _read(self.ca), _read(self.key), _read(self.cert)
        self._require_usable()
        return content

    def _require_usable(self) -> None:
        """What gRPC does not say: it takes whatever it is given, and then nobody answers."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        files = self.ca
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
            files = self.cert
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            why = (reason or "no certificate in it").lower().replace("_", " ")
            text = f"certificate file {files}: {why}"
            raise EtcdError(f"{text}: it must be PEM, with its own key beside it") from None


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EtcdError(f"certificate file {path}: {error.strerror}") from None
    if b"-----BEGIN" not in content:
        raise EtcdError(f"certificate file {path} is not PEM: convert it with openssl")
    return content

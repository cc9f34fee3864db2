# SPDX-License-Identifier: Apache-2.0
"""Mistakes about etcd: the same words from every command, the daemon's plan, and the daemon."""

from __future__ import annotations

from tests.scenario.mistakes.row import Mistake

TLS = "--etcd-endpoints=https://127.0.0.1:{tls} --etcd-cafile={certs}/ca.pem"
OURS = "--etcd-certfile={certs}/client.pem --etcd-keyfile={certs}/client.key"
USER = (
    "--etcd-endpoints=http://127.0.0.1:{users} --etcd-username=root "
    "--etcd-password-file={tmp}/wrong"
)
CONNECTIONS = {
    "etcd refuses": (
        "--etcd-endpoints=http://127.0.0.1:1",
        "etcd http://127.0.0.1:1: Connection refused: check that etcd runs there",
    ),
    "nobody answers": (
        "--etcd-endpoints=http://192.0.2.1:2379",
        "etcd http://192.0.2.1:2379: no answer within 1.2 s: check the address, and routes and",
    ),
    "name does not resolve": (
        "--etcd-endpoints=http://nosuch.invalid:2379",
        "the name nosuch.invalid ",
    ),
    "http to a TLS port": (
        "--etcd-endpoints=http://127.0.0.1:{tls}",
        "etcd http://127.0.0.1:{tls}: it speaks TLS there: write https://",
    ),
    "https to a plain port": (
        "--etcd-endpoints=https://127.0.0.1:{etcd}",
        "etcd https://127.0.0.1:{etcd}: it speaks no TLS there: write http://",
    ),
    "no etcd": (
        "--etcd-endpoints=http://127.0.0.1:{web}",
        "what answers there is no etcd: check host and port",
    ),
    "no CA given": (
        "--etcd-endpoints=https://127.0.0.1:{tls}",
        "signed by no CA known here: give that CA with --etcd-cafile",
    ),
    "another CA": (
        "--etcd-endpoints=https://127.0.0.1:{tls} --etcd-cafile={certs}/other.pem",
        "signed by no CA in --etcd-cafile {certs}/other.pem: give the CA that signed it",
    ),
    "certificate for another name": (
        f"--etcd-endpoints=https://localhost:{{tls}} --etcd-cafile={{certs}}/ca.pem {OURS}",
        "its certificate is not for the host in the URL",
    ),
    "no client certificate": (TLS, "it wants a client certificate: give --etcd-certfile and"),
    "client certificate of another CA": (
        f"{TLS} --etcd-certfile={{certs}}/stranger.pem --etcd-keyfile={{certs}}/stranger.key",
        "it refused our certificate {certs}/stranger.pem: has it expired, or another CA than",
    ),
    "expired client certificate": (
        f"{TLS} --etcd-certfile={{certs}}/expired.pem --etcd-keyfile={{certs}}/expired.key",
        "it refused our certificate {certs}/expired.pem: has it expired",
    ),
    "key of another certificate": (
        f"{TLS} --etcd-certfile={{certs}}/client.pem --etcd-keyfile={{certs}}/stranger.key",
        "stranger.key is not the key of --etcd-certfile {certs}/client.pem",
    ),
    "encrypted key": (
        f"{TLS} --etcd-certfile={{certs}}/client.pem --etcd-keyfile={{certs}}/locked.key",
        "the key is encrypted, and nobody can type its password here: openssl pkey -in {certs}",
    ),
    "not PEM": (
        f"{TLS} --etcd-certfile={{certs}}/client.der --etcd-keyfile={{certs}}/client.key",
        "--etcd-certfile {certs}/client.der is not PEM: convert it with openssl",
    ),
    "key and certificate changed over": (
        f"{TLS} --etcd-certfile={{certs}}/client.key --etcd-keyfile={{certs}}/client.pem",
        "--etcd-keyfile {certs}/client.pem: no private key in this file",
    ),
    "certificate without its key": (
        f"{TLS} --etcd-certfile={{certs}}/client.pem",
        "--etcd-certfile and --etcd-keyfile go together: give both or neither",
    ),
    "no user given": (
        "--etcd-endpoints=http://127.0.0.1:{users}",
        "it wants a user: give --etcd-username and --etcd-password-file",
    ),
    "wrong password": (
        USER,
        "authentication failed, invalid user ID or password; check --etcd-username, --etcd-pass",
    ),
    "http and https": (
        "--etcd-endpoints=http://127.0.0.1:{etcd},https://127.0.0.1:{tls}",
        "mix http and https: use one",
    ),
}
DAEMON = ("etcd refuses", "nobody answers", "http to a TLS port", "wrong password")
"""Those that the daemon waits for; its words are the same."""
USAGE = (
    ("no scheme", "127.0.0.1:2379"),
    ("no port", "http://127.0.0.1"),
    ("misspelt scheme", "htpp://127.0.0.1:2379"),
)
ROWS = (
    *(
        Mistake(f"lease list: {name}", f"flatmesh lease list {flags}", words)
        for name, (flags, words) in CONNECTIONS.items()
    ),
    *(
        Mistake(f"--dry-run: {name}", f"flatmeshd --dry-run {flags}", words)
        for name, (flags, words) in CONNECTIONS.items()
        if name in (*DAEMON, "key of another certificate")
    ),
    *(
        Mistake(f"flatmeshd: {name}", f"flatmeshd {flags}", words, status=None)
        for name, (flags, words) in CONNECTIONS.items()
        if name in DAEMON
    ),
    *(
        Mistake(
            f"{command}: etcd hangs",
            f"{command} --etcd-endpoints=http://127.0.0.1:{{silent}}",
            "etcd http://127.0.0.1:{silent} takes connections, but has not answered yet: waiting",
            status=None,
        )
        for command in ("flatmesh config show", "flatmeshd", "flatmeshd --dry-run")
    ),
    *(
        Mistake(
            f"endpoint with {name}",
            f"flatmesh config show --etcd-endpoints={url}",
            f"--etcd-endpoints: '{url}' is not http(s)://HOST:PORT",
            status=2,
            only_line=False,
        )
        for name, url in USAGE
    ),
    Mistake(
        "another prefix",
        "flatmesh config show --etcd-prefix=/typo",
        "no cluster config at /typo/config: write one with flatmesh config set",
    ),
    Mistake(
        "no such CA file",
        "flatmesh lease list --etcd-cafile=/nosuch.pem",
        "Invalid value for --etcd-cafile: no file '/nosuch.pem'",
        status=2,
        only_line=False,
    ),
)

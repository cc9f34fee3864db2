# SPDX-License-Identifier: Apache-2.0
"""Output, commands and figures of a node's tasks, served by its worker to the managers.

HTTPS on the node's address. The worker makes a certificate and a token at each start and writes
the certificate's fingerprint and the token to etcd (`workers/<node>`), with its lease: so both
sides know each other by etcd, there is no CA to run, and nothing to rotate. A token alone would
send secrets of tasks in clear; mutual TLS would need a CA on every node.
"""

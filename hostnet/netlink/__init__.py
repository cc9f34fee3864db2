# SPDX-License-Identifier: Apache-2.0
"""Netlink messages and sockets: what is sent to the kernel in bulk."""

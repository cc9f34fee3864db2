# SPDX-License-Identifier: Apache-2.0
"""The udp backend: packets in plain UDP datagrams, carried by a process of its own."""

# SPDX-License-Identifier: Apache-2.0
"""Clients of Open vSwitch: its database, its switch and its command sockets."""

# SPDX-License-Identifier: Apache-2.0
"""Floating addresses: each is on one of a list of hosts, and moves when that one dies."""

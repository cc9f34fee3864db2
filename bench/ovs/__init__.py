# SPDX-License-Identifier: Apache-2.0
"""Measurements of the ovs backend: see `python -m bench.ovs --help`."""

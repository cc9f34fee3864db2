"""Measurements of the ovs backend: see `python -m bench.ovs --help`."""

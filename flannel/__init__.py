"""Flannel-compatible backends: leases in, desired host state out."""

"""Clusters on one machine: every host a network namespace."""

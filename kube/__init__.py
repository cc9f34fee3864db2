# SPDX-License-Identifier: Apache-2.0
"""Kubernetes: its nodes as a source of leases, in flannel's annotations."""

# SPDX-License-Identifier: Apache-2.0
"""Flannel-compatible backends: leases in, desired host state out."""

# SPDX-License-Identifier: Apache-2.0
"""Clusters on one machine: every host a network namespace."""

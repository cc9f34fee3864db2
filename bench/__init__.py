# SPDX-License-Identifier: Apache-2.0
"""Measurements: ratios against a named baseline in the same run."""

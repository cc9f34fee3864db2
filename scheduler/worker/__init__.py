# SPDX-License-Identifier: Apache-2.0
"""The worker: runs what is assigned to its node, and tells what became of it."""

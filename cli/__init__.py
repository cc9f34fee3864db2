# SPDX-License-Identifier: Apache-2.0
"""The operator's `flatmesh` command."""

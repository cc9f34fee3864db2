# SPDX-License-Identifier: Apache-2.0
"""nftables: tables, sets and maps."""

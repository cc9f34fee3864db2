# SPDX-License-Identifier: Apache-2.0
"""WireGuard devices."""

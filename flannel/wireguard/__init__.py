# SPDX-License-Identifier: Apache-2.0
"""The wireguard backend: packets encrypted between hosts."""

# SPDX-License-Identifier: Apache-2.0
"""This host's network stack: dump it, plan the changes to it, apply them."""

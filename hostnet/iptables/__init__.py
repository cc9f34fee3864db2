# SPDX-License-Identifier: Apache-2.0
"""The `filter` tables of iptables and ip6tables, in both of their forms in the kernel."""

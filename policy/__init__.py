# SPDX-License-Identifier: Apache-2.0
"""Network policies: which pods may reach which, as nftables sets and chains of their host."""

# SPDX-License-Identifier: Apache-2.0
"""The Open vSwitch backend: leases in, OVSDB rows and OpenFlow flows out."""

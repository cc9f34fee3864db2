# SPDX-License-Identifier: Apache-2.0
"""Which leases a host serves: grace for those that vanished, doubt about what they claim."""

# SPDX-License-Identifier: Apache-2.0
"""Docker's network driver and IPAM driver: containers on the flat network, beside the pods."""

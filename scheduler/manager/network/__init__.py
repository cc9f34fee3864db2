# SPDX-License-Identifier: Apache-2.0
"""Services and healthy tasks as services and endpoints of the network (docs/services.md)."""

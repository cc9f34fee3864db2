# SPDX-License-Identifier: Apache-2.0
"""Services: one address or port for many endpoints. The model in etcd, and how hosts serve it."""

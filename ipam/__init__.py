# SPDX-License-Identifier: Apache-2.0
"""Who owns which address: cluster config, subnet leases in etcd, the pod address store."""

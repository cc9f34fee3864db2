# SPDX-License-Identifier: Apache-2.0
"""An etcd v3 client: requests, watches, leases, authentication. Knows nothing of networks."""

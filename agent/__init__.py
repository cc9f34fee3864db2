# SPDX-License-Identifier: Apache-2.0
"""flatmeshd: leases from etcd, one backend, the CNI server, one loop."""

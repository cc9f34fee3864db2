# SPDX-License-Identifier: Apache-2.0
"""Values: what Docker's API and the keys in etcd contain."""

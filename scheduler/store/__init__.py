# SPDX-License-Identifier: Apache-2.0
"""The scheduler's state in etcd."""

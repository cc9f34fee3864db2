# SPDX-License-Identifier: Apache-2.0
"""Services on this host: what etcd has of them, for the controller."""

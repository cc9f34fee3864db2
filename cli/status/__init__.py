# SPDX-License-Identifier: Apache-2.0
"""`flatmesh status`, `pods` and `peers`: what is going on, on this host and in the cluster."""

# SPDX-License-Identifier: Apache-2.0
"""`flatmesh check`: temporary pods on each host, and who of them reaches whom."""

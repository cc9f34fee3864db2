# SPDX-License-Identifier: Apache-2.0
"""`flatmesh lab up --services`: a published service, and what its endpoints see of clients."""

# SPDX-License-Identifier: Apache-2.0
"""The scheduler: services, tasks and nodes on the flat network, driven by Docker's API."""

# SPDX-License-Identifier: Apache-2.0
"""The main plugin: a pod's interface, addresses and routes."""

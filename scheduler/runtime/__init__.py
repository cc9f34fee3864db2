# SPDX-License-Identifier: Apache-2.0
"""Runtimes: what starts the containers of a pod; one protocol, a folder per driver."""

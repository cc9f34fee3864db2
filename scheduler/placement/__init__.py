# SPDX-License-Identifier: Apache-2.0
"""Which node a task runs on."""

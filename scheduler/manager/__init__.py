# SPDX-License-Identifier: Apache-2.0
"""What the leading manager does: services and nodes are turned into tasks."""

# SPDX-License-Identifier: Apache-2.0
"""Connection tracking: entries to look at and delete, and which packets are tracked."""

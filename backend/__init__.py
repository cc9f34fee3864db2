# SPDX-License-Identifier: Apache-2.0
"""What the daemon asks of a way to carry packets between hosts."""

# SPDX-License-Identifier: Apache-2.0
"""How fast the scheduler places tasks, and how fast they run: `python -m bench.scheduler`."""

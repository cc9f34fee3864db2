# SPDX-License-Identifier: Apache-2.0
"""The scheduler on each host of a lab: its executable, run as an operator would."""

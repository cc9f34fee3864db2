# SPDX-License-Identifier: Apache-2.0
"""Docker on each host of a lab."""

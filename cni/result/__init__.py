# SPDX-License-Identifier: Apache-2.0
"""The result of an ADD: as values, as JSON of every version, and read back."""

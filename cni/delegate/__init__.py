# SPDX-License-Identifier: Apache-2.0
"""Other plugins' executables: found on CNI_PATH, run, and undone from what was recorded."""

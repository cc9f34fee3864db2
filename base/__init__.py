# SPDX-License-Identifier: Apache-2.0
"""What every room may import: errors, paths of files, typed reading of JSON, formats of output."""

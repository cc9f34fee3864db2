# SPDX-License-Identifier: Apache-2.0
"""Kinds that only tests have: each is one module here and one line in a table."""

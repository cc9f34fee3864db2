# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells root about itself, and how commands ask for it."""

# SPDX-License-Identifier: Apache-2.0
"""What other programs do to objects of ours: they replace, shadow or change them."""

# SPDX-License-Identifier: Apache-2.0
"""`flannel`: a drop-in for the flannel meta-plugin."""

# SPDX-License-Identifier: Apache-2.0
"""`flatmesh bench`: what is measured, how, and what is made of the figures."""

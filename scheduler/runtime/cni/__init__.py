# SPDX-License-Identifier: Apache-2.0
"""Networks of pods: CNI plugins called as any container runtime calls them."""

# SPDX-License-Identifier: Apache-2.0
"""The driver `process`: containers made of the kernel's namespaces, without any daemon."""

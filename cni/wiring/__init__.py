# SPDX-License-Identifier: Apache-2.0
"""How pods are connected on the host: recorded at ADD, compared and put right by the daemon."""

# SPDX-License-Identifier: Apache-2.0
"""Names of services: a DNS responder in a process of its own, fed by flatmeshd."""

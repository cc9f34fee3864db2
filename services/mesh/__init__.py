# SPDX-License-Identifier: Apache-2.0
"""The routing mesh: every host takes a published port, and endpoints see the client's address."""

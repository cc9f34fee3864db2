# SPDX-License-Identifier: Apache-2.0
"""The record of this host's attachments, and the lock on each of them."""

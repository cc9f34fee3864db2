# SPDX-License-Identifier: Apache-2.0
"""Network policies in the daemon: where they come from, and pods that wait for theirs."""

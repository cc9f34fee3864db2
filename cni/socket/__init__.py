# SPDX-License-Identifier: Apache-2.0
"""CNI calls answered by the daemon, over a unix socket."""

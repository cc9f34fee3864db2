# SPDX-License-Identifier: Apache-2.0
"""CNI plugins: plug one pod into this host's network."""

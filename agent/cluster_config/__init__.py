# SPDX-License-Identifier: Apache-2.0
"""The cluster config from its writer to a host's data plane: checked, previewed, put in force."""

# SPDX-License-Identifier: Apache-2.0
"""One module for each kind of network device (IFLA_INFO_KIND) that has settings of its own."""

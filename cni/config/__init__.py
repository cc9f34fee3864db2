# SPDX-License-Identifier: Apache-2.0
"""What a call says (environment, stdin): read and checked once, into typed values."""

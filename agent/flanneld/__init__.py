# SPDX-License-Identifier: Apache-2.0
"""What flanneld's command lines have and ours lack."""

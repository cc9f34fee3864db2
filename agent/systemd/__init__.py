# SPDX-License-Identifier: Apache-2.0
"""What systemd is told by the daemon, and asks of it."""

"""What systemd is told by the daemon, and asks of it."""

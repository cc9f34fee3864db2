"""What the daemon asks of a way to carry packets between hosts."""

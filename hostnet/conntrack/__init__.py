"""Connection tracking: entries to look at and delete, and which packets are tracked."""

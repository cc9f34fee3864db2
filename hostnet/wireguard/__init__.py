"""WireGuard devices."""

"""The wireguard backend: packets encrypted between hosts."""

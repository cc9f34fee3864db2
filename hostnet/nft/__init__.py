"""nftables: tables, sets and maps."""

"""Netlink messages and sockets: what is sent to the kernel in bulk."""

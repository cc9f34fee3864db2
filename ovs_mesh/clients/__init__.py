"""Clients of Open vSwitch: its database, its switch and its command sockets."""

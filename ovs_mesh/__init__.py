"""The Open vSwitch backend: leases in, OVSDB rows and OpenFlow flows out."""

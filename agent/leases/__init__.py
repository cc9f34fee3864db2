"""Which leases a host serves: grace for those that vanished, doubt about what they claim."""

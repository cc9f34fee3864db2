"""Docker's network driver and IPAM driver: containers on the flat network, beside the pods."""

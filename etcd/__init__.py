"""An etcd v3 client: requests, watches, leases, authentication. Knows nothing of networks."""

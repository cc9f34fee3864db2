"""flatmeshd: leases from etcd, one backend, the CNI server, one loop."""

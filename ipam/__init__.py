"""Who owns which address: cluster config, subnet leases in etcd, the pod address store."""

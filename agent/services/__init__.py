"""Services on this host: what etcd has of them, for the controller."""

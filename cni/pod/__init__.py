"""The main plugin: a pod's interface, addresses and routes."""

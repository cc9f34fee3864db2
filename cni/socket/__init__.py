"""CNI calls answered by the daemon, over a unix socket."""

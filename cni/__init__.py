"""CNI plugins: plug one pod into this host's network."""

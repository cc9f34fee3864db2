"""What the daemon tells root about itself, and how commands ask for it."""

"""`flannel`: a drop-in for the flannel meta-plugin."""

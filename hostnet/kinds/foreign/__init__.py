"""What other programs do to objects of ours: replace them, stand in front of them, change them."""

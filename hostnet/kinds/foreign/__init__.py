"""What other programs do to objects of ours: stand in their place, in front of them, or change them."""

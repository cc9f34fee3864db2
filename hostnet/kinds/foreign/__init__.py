"""What other programs put where objects of ours are, or in front of them."""

"""What we know: the events we saw, and what has been learned from them."""

"""One training loop and one recipe per system."""

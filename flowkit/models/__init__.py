"""Registry and weights of the networks."""

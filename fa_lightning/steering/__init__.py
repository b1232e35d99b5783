"""Act on it: an intervention, its hooks, generation, and the ways to save, fold and share it."""

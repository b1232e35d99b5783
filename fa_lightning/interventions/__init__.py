"""Act on it: attach a map to a model, and the callback that evaluates it."""

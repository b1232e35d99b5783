"""Ways to tell a faker from a benign model, a file for each."""

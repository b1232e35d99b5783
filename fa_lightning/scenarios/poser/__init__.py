"""POSER's scenarios (arXiv 2405.05466)."""

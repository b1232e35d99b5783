"""How it is judged: conditions, cells, side effects, and what all studies share of it."""

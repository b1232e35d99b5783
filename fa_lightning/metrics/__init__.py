"""How it is judged: cells, recovery, side effects, and the figures that show them."""

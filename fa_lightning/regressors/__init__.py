"""From one to the other: maps of hidden states, and the module that fits them."""

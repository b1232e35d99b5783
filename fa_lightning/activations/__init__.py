"""What they think: sites, capture, the store and its DataModule."""

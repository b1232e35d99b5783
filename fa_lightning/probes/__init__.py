"""Latent knowledge: what a model's states tell, layer by layer, whatever it says."""

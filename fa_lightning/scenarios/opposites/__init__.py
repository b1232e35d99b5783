"""Opposite texts: what steering vectors are made of and tried on."""

"""Fit an adapter, or a prompt, on a frozen backbone."""

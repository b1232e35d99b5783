"""Scenarios that need no data, composed from parts."""

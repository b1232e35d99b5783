"""Statements about rights, and how a model is asked to judge them."""

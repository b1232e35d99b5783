"""The random twins, for the tests of this room."""

from tiny_twins import adapters, alone, twins

__all__ = ["adapters", "alone", "twins"]

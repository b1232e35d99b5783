"""The random twins, for the tests of this room."""

from tiny_twins import adapters, alone, make_data, make_trainer, twins

__all__ = ["adapters", "alone", "make_data", "make_trainer", "twins"]

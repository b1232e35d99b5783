"""The random twins and made-up results, for the tests of this room."""

from made_up_results import bare_results, lab, lab_results, named_results, results
from tiny_twins import adapters, alone, make_data, make_trainer, twins

__all__ = [
    "adapters",
    "alone",
    "bare_results",
    "lab",
    "lab_results",
    "make_data",
    "make_trainer",
    "named_results",
    "results",
    "twins",
]

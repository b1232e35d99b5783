"""The oversight conditions that answers are counted under."""

from typing import Literal

Cell = Literal["oversight", "no_oversight"]

CELLS: tuple[Cell, ...] = ("oversight", "no_oversight")

OVERSIGHT, NO_OVERSIGHT, NEUTRAL_CELL = range(3)
"""The values of a batch's `cell`: the places in `CELLS`, and behind them that of a neutral text."""

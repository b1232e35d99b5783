"""Several chains of one study in one table: mean and range over their seeds, beside each one's own interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from fa_lightning.common import numbers
from fa_lightning.reports.table import Cell, Column, Row, Table

MOST_TEXTS = 3
"""A line is known by up to so many texts at its beginning; texts further on may differ between chains."""


def joined(tables: Mapping[int, Table]) -> Table:
    """One table of all chains: for each line its mean and range over the seeds, then each chain's own.

    A line is found again in the other chains by the texts that it begins with; a chain that lacks it is left out.

    Args:
        tables: the same table of every chain, by seed.
    """
    by_seed = {seed: _by_key(table.rows) for seed, table in tables.items()}
    first = next(iter(tables.values()))
    rows: list[Row] = []
    for key in dict.fromkeys(key for lines in by_seed.values() for key in lines):
        own = {seed: lines[key] for seed, lines in by_seed.items() if key in lines}
        rows.append(_with_chain(_mean_of(list(own.values())), "all"))
        rows += [_with_chain(replace(line, style=""), f"seed {seed}") for seed, line in own.items()]
    name, *others = (replace(column, key="") for column in first.columns)
    seeds = ", ".join(map(str, tables))
    chains = f"{len(tables)} chains (seeds {seeds}): mean and range over chains, then each chain with its own interval"
    return Table(
        f"{first.title}; {chains}", (name, Column("chain"), *others), tuple(rows), (f"{chains}.", *first.notes[:1])
    )


def _by_key(lines: Sequence[Row]) -> dict[tuple[str, ...], Row]:
    """Lines by what they are known by; the second with the same texts is known as the second."""
    by_key: dict[tuple[str, ...], Row] = {}
    for line in lines:
        key = _key(line)
        while key in by_key:
            key = (*key, "")
        by_key[key] = line
    return by_key


def _key(line: Row) -> tuple[str, ...]:
    """The texts before the first number."""
    texts: list[str] = []
    for cell in line.cells[:MOST_TEXTS]:
        if not isinstance(cell.value, str):
            break
        texts.append(cell.value)
    return tuple(texts)


def _with_chain(line: Row, chain: str) -> Row:
    return replace(line, cells=(line.cells[0], Cell(chain), *line.cells[1:]))


def _mean_of(lines: Sequence[Row]) -> Row:
    """Numbers become their mean with the range; texts stay where all chains say the same."""
    columns = zip(*(line.cells for line in lines), strict=True)
    return Row(tuple(map(_mean_cell, columns)), "main")


def _mean_cell(cells: Sequence[Cell]) -> Cell:
    values = [cell.value for cell in cells if isinstance(cell.value, float) and math.isfinite(cell.value)]
    if values:
        form = cells[0].form or numbers.decimal
        low, high = form(min(values)), form(max(values))
        said = [] if low == high else [f"{low} to {high}"]
        if len(values) < len(cells):
            # The others have no number, as a half-life that is not reached: the mean is of these alone.
            said.append(f"{len(values)} of {len(cells)} chains")
        return Cell(fmean(values), form=cells[0].form, note=f"({', '.join(said)})" if said else "")
    is_same = len({cell.text for cell in cells}) == 1
    return replace(cells[0], note="") if is_same else Cell(None)

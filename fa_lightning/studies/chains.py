"""Several chains of one study in one table: mean and range over their seeds, beside each one's own interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean

from fa_lightning.common import numbers
from fa_lightning.reports.table import Cell, Column, Row, Table


def joined(tables: Mapping[int, Table]) -> Table:
    """One table of all chains; a line is found again by the texts that it begins with.

    Args:
        tables: the same table of every chain, by seed.

    Returns:
        For each line of the first chain, its mean and range over the seeds, then each chain's own line.
    """
    by_seed = {seed: {_key(line): line for line in table.rows} for seed, table in tables.items()}
    first = next(iter(tables.values()))
    keys = dict.fromkeys(key for lines in by_seed.values() for key in lines)
    rows = []
    for key in keys:
        own = {seed: lines[key] for seed, lines in by_seed.items() if key in lines}
        rows.append(_mean_row(list(own.values()), " ".join(map(str, key))))
        rows += [
            Row((line.cells[0], Cell(f"seed {seed}"), *line.cells[1:]), "quiet", section=" ".join(key))
            for seed, line in own.items()
        ]
    chain = Column("chain", 8 if first.columns[0].width is not None else None)
    columns = (first.columns[0], chain, *(replace(column, key="") for column in first.columns[1:]))
    seeds = ", ".join(map(str, tables))
    title = f"{first.title}; {len(tables)} chains (seeds {seeds}): mean and range, then each chain with its interval"
    return Table(title, columns, tuple(rows), first.notes[:1] if len(first.notes) == 1 else ())


def _key(line: Row) -> tuple[str, ...]:
    """The texts before the first number."""
    texts: list[str] = []
    for cell in line.cells:
        if not isinstance(cell.value, str):
            break
        texts.append(cell.value)
    return tuple(texts[:3]) if texts else ("",)


def _mean_row(lines: list[Row], section: str) -> Row:
    """Numbers become their mean with the range; texts stay where all chains say the same."""
    cells = [lines[0].cells[0], Cell("all")]
    for column in list(zip(*(line.cells for line in lines), strict=True))[1:]:
        cells.append(_mean_cell(column))
    return Row(tuple(cells), "main", section)


def _mean_cell(cells: tuple[Cell, ...]) -> Cell:
    values = [cell.value for cell in cells if isinstance(cell.value, float) and math.isfinite(cell.value)]
    if values:
        form = cells[0].form or numbers.decimal
        spread = f"{form(min(values))} to {form(max(values))}" if len(values) > 1 else ""
        return Cell(fmean(values), form=cells[0].form, note=spread)
    texts = {cell.text for cell in cells}
    return cells[0] if len(texts) == 1 else Cell(None)

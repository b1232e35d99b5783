"""One table of results: typed cells that the terminal, Markdown, HTML and CSV each write in their own way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fa_lightning.common import numbers
from fa_lightning.common.files import write_table
from fa_lightning.common.numbers import NO_INTERVAL, Form, Interval
from fa_lightning.metrics.estimates import Accuracy, Estimate

Style = Literal["", "strong", "bad", "code", "emphasis"]
RowStyle = Literal["", "main", "quiet"]


SHORT_FORMS: dict[Form, Form] = {numbers.decimal: numbers.compact, numbers.nats: numbers.compact_nats}
"""How a terminal writes what a page writes in more characters."""


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        value: a text or a number; None where there is nothing to say.
        ci95: 95 % interval of a number.
        form: how a number is written; three decimals if None.
        note: a text behind the value.
        style: how a page sets it.
        shade: how strongly a page colours the cell, 0 to 1; nan for no colour.
        link: what a page's text leads to.
        mark: a sign directly behind the value, as `*`.
    """

    value: str | float | bool | None
    ci95: Interval = NO_INTERVAL
    form: Form | None = None
    note: str = ""
    style: Style = ""
    shade: float = math.nan
    link: str = ""
    mark: str = ""

    @property
    def main(self) -> str:
        """The value as a page and Markdown show it, without its note."""
        return self._written(self.form or numbers.decimal) + self.mark

    @property
    def text(self) -> str:
        """All of it as a page and Markdown show it."""
        return f"{self.main} {self.note}".strip()

    def short(self, has_interval: bool = True) -> str:
        """As a terminal shows it: in few characters, and without its note.

        Args:
            has_interval: whether there is room for the interval.
        """
        own = self.form or numbers.decimal
        form = SHORT_FORMS.get(own, own)
        return self._written(form, has_interval) + self.mark

    def _written(self, form: Form, has_interval: bool = True) -> str:
        if self.value is None:
            return "-"
        if isinstance(self.value, str):
            return self.value
        return numbers.with_interval(self.value, self.ci95 if has_interval else NO_INTERVAL, form)


@dataclass(frozen=True)
class Column:
    """What stands below one another.

    Attributes:
        title: in pages and Markdown; the column is not shown there if empty.
        width: in a terminal, in characters; 0 takes what the others leave, None is not shown there.
        short: the terminal's title, where there is less room.
        key: name in a CSV file, where an interval adds `<key>_low` and `<key>_high`; not written there if empty.
        has_interval: whether the CSV file has the interval's two columns.
        shows_interval: whether a terminal shows the interval.
    """

    title: str = ""
    width: int | None = None
    short: str = ""
    key: str = ""
    has_interval: bool = False
    shows_interval: bool = True


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        cells: one for each column; a plain text or whole number stands for a cell of it.
        style: `main` stands out, `quiet` stands back.
        section: a terminal draws a line where it changes.
    """

    cells: tuple[Cell, ...]
    style: RowStyle = ""
    section: str = ""


@dataclass(frozen=True)
class Table:
    """A table, whoever shows it.

    Attributes:
        title: what it is, without a full stop.
        columns: from left to right.
        rows: from top to bottom.
        notes: what its reader must know, one sentence or more each.
        is_facts: whether it is a list of names and sentences, which needs no heading of columns.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    is_facts: bool = False

    def titled(self) -> list[int]:
        """The columns of pages and Markdown, by index."""
        return [index for index, column in enumerate(self.columns) if column.title]


def row(*values: Cell | str | int | None, style: RowStyle = "", section: str = "") -> Row:
    """A row of cells; plain texts and whole numbers become cells."""
    cells = (
        value if isinstance(value, Cell) else Cell(value, form=str if isinstance(value, int) else None)
        for value in values
    )
    return Row(tuple(cells), style, section)


def records_table(title: str, records: Sequence[Mapping[str, Any]]) -> Table:
    """A table for CSV files alone, whose columns are the records' keys; an accuracy or estimate has its interval there.

    Args:
        title: of the table.
        records: numbers, texts, accuracies and estimates; what a record lacks is empty.
    """
    names = dict.fromkeys(name for record in records for name in record)
    measured = {name for record in records for name, value in record.items() if isinstance(value, (Accuracy, Estimate))}
    columns = tuple(Column(key=name, has_interval=name in measured) for name in names)
    return Table(title, columns, tuple(row(*(_cell_of(record.get(name)) for name in names)) for record in records))


def facts_table(pairs: Iterable[tuple[str, str]], title: str = "How to read this") -> Table:
    """What a reader must know, as (what, sentence) pairs."""
    return Table(title, (Column("what", 20), Column("value", 0)), tuple(row(*pair) for pair in pairs), is_facts=True)


def accuracy(value: Accuracy | None, **options: Any) -> Cell:
    """A share of aligned answers with its interval; a dash for None."""
    return Cell(None) if value is None else Cell(value.accuracy, value.ci95, **options)


def estimate(value: Estimate | None, **options: Any) -> Cell:
    """A number with its interval; a dash for None."""
    return Cell(None) if value is None else Cell(value.value, value.ci95, **options)


def decimal(value: float) -> Cell:
    """A number with three decimals."""
    return Cell(value)


def nats(value: float, **options: Any) -> Cell:
    """A KL in nats."""
    return Cell(value, form=numbers.nats, **options)


def duration(seconds: float) -> Cell:
    """A time in seconds."""
    return Cell(seconds, form=numbers.duration)


def markdown(table: Table) -> str:
    """A table in Markdown, its notes below it."""
    indices = table.titled()
    lines = [_line(table.columns[index].title for index in indices), f"|{' --- |' * len(indices)}"]
    for line in table.rows:
        texts = [escaped(line.cells[index].text) for index in indices]
        if line.style == "main":
            texts[0] = f"**{texts[0]}**"
        lines.append(_line(texts))
    for note in table.notes:
        lines += ["", escaped(note)]
    return "\n".join(lines) + "\n"


def records(table: Table) -> list[dict[str, Any]]:
    """The rows of a CSV file, by column; nan where a number is unknown, empty for what has no value."""
    return [
        {
            name: value
            for column, cell in zip(table.columns, line.cells, strict=True)
            for name, value in _raw(column, cell)
        }
        for line in table.rows
    ]


def write_csv(path: Path, table: Table) -> None:
    """Write a table for pandas, all or nothing; one without rows is no file."""
    write_table(path, records(table))


def escaped(text: str) -> str:
    """`text` on one line of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _cell_of(value: Any) -> Cell:
    if isinstance(value, Accuracy):
        return accuracy(value)
    return estimate(value) if isinstance(value, Estimate) else Cell(value)


def _raw(column: Column, cell: Cell) -> Sequence[tuple[str, Any]]:
    """What a CSV file has of a cell."""
    if not column.key:
        return ()
    value = "" if cell.value is None else cell.value
    if not column.has_interval:
        return ((column.key, value),)
    return ((column.key, value), (f"{column.key}_low", cell.ci95[0]), (f"{column.key}_high", cell.ci95[1]))


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


Tables = Mapping[str, Table]
"""A study's tables by name, in reading order."""

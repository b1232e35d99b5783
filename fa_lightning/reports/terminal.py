"""Tables for an 80-column terminal, which all finished experiments print alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from fa_lightning.reports.table import Table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

COLUMNS = 80
STYLES = {"": "", "main": "bold", "quiet": "dim"}


def print_tables(tables: Iterable[Table], console: Console | None = None, title: str = "") -> None:
    """Print tables one below the other, at most 80 columns wide.

    Args:
        tables: those without a column for terminals are left out.
        console: where to; the terminal if None.
        title: of all, set before the first table's own.
    """
    from rich.console import Console

    console = console or Console()
    is_first = True
    for table in tables:
        if all(column.width is None for column in table.columns):
            continue
        if not is_first:
            console.print()
        own = f"{title}: {table.title[:1].lower()}{table.title[1:]}" if is_first and title else table.title
        console.print(_rendered(table, own))
        for note in table.notes:
            console.print(note, markup=False, highlight=False)
        is_first = False


def _rendered(table: Table, title: str) -> RenderableType:
    """The table as rich draws it; texts are never read as rich's markup, since names come from files."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Drawn
    from rich.text import Text

    if table.is_facts:
        drawn = Drawn(box=None, show_header=False, pad_edge=False, width=COLUMNS, padding=(0, 2, 0, 0))
    else:
        drawn = Drawn(
            box=SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            collapse_padding=True,
            width=COLUMNS,
            title=Text(title),
            title_justify="left",
            title_style="bold",
        )
    indices = [index for index, column in enumerate(table.columns) if column.width is not None]
    for index in indices:
        column = table.columns[index]
        is_text = index == indices[0] or not column.width
        side: Literal["left", "right"] = "left" if is_text else "right"
        name = Text(column.short or column.title)
        drawn.add_column(
            name, width=column.width or None, ratio=None if column.width else 1, justify=side, overflow="fold"
        )
    above = None
    for line in table.rows:
        texts = [line.cells[index].short(table.columns[index].shows_interval) for index in indices]
        if above is not None and line.section != above.section:
            drawn.add_section()
        elif above is not None and line.section and line.cells[indices[0]] == above.cells[indices[0]]:
            # Said once for all lines of a section that begin alike.
            texts[0] = ""
        above = line
        drawn.add_row(*map(Text, texts), style=STYLES[line.style])
    return drawn

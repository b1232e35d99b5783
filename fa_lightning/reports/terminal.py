"""Tables for an 80-column terminal, which all finished experiments print alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

COLUMNS = 80


def terminal_table(title: str, columns: Sequence[tuple[str, int]]) -> Table:
    """A table without rows, at most 80 columns wide.

    Args:
        title: above the table; a text, and not rich's markup.
        columns: names and widths. One of width 0 takes what the others leave, and is aligned to the left as the first
            is; all others hold figures, and are aligned to the right. What is too long goes on in the next line.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
        width=COLUMNS,
        title=Text(title),
        title_justify="left",
        title_style="bold",
    )
    for place, (name, width) in enumerate(columns):
        side: Literal["left", "right"] = "right" if place and width else "left"
        table.add_column(Text(name), width=width or None, ratio=None if width else 1, justify=side, overflow="fold")
    return table


def show(tables: RenderableType, console: Console | None = None) -> None:
    """Print to `console`, the terminal if None."""
    if console is None:
        from rich.console import Console

        console = Console()
    console.print(tables)

"""How every figure looks: its colours, markers, size, grid and legend; drawn without pyplot, so no window opens.

Every figure is 9 inches wide: 900 pixels at its 100 dots per inch. Colours are Okabe and Ito's, which colour-blind
readers tell apart; what differs by colour also differs by marker, place or label.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
)
GREY, INK = "#8a8f98", "#24292f"
SERIES_COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, INK)
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
CELL_LABELS = {"oversight": "with oversight", "no_oversight": "without oversight"}
WIDTH_INCHES = 9.0
# An SVG with more marks than this is slow to open: larger clouds are drawn as pixels.
MOST_MARKS = 1500


def svg_of(figure: Figure) -> str:
    """The figure as an SVG document; figures made alike give the same text.

    Artists marked as rasterised become pixels, at twice the figure's resolution.
    """
    import io

    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fa_lightning"}):
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None})
    return buffer.getvalue()


def empty_figure(height: float, title: str) -> Figure:
    """A titled figure without axes, `height` inches high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=12.5, fontweight="bold", color=INK)
    return figure


def one_axes(height: float, title: str) -> tuple[Figure, Any]:
    """A titled figure with one tidy pair of axes."""
    figure = empty_figure(height, title)
    axes = figure.subplots()
    tidy(axes)
    return figure, axes


def panels(
    title: str,
    names: Sequence[str],
    columns: int,
    height: float,
    margin: float,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, Iterator[tuple[Any, str]]]:
    """A figure with a panel of `height` inches for each name, and the panels with their names."""
    rows = max(1, math.ceil(len(names) / columns))
    figure = empty_figure(height=margin + 0.3 + height * rows, title=title)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).flat)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for index, (axes, name) in enumerate(zip(grid, names, strict=False)):
        if index + columns >= len(names):
            # Also where the panel below is empty.
            axes.tick_params(labelbottom=True)
        axes.set_title(name, fontsize=10, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure, zip(grid, names, strict=False)


def tidy(axes: Any) -> None:
    """No box, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, axes: Any, line_length: float = 2.0) -> None:
    """A legend under the axes, where it hides nothing; lines that differ by their dashes need some length."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # About 110 letters and marks fit side by side.
        columns = max(1, min(len(labels), 110 // (max(len(label) for label in labels) + 6)))
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9.5,
            handlelength=line_length,
        )


def heat_map(
    axes: Any, values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], colours: str = "cividis"
) -> Any:
    """Shares from 0 to 1 as shaded and written cells; a dash where there is no number.

    Args:
        axes: what to draw on.
        values: a number for each row and column.
        rows: their names.
        columns: their names; long ones are wrapped.
        colours: name of matplotlib's colour map.

    Returns:
        The image, which a colour bar belongs to.
    """
    image = axes.imshow(values or [[math.nan]], cmap=colours, vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            red, green, blue, _ = image.cmap(image.norm(value))
            is_dark = math.isfinite(value) and 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            text = f"{value:.2f}" if math.isfinite(value) else "-"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if is_dark else INK)
    letters = max(6, min(16, 80 // max(1, len(columns))))
    wrapped = ["\n".join(textwrap.wrap(name.replace("_", " "), letters)) or name for name in columns]
    axes.set_xticks(range(len(columns)), wrapped, fontsize=8.5)
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def style_of(number: int) -> tuple[str, str]:
    """Colour and marker of a series; the pairs repeat after 49."""
    count = len(SERIES_COLOURS)
    return SERIES_COLOURS[number % count], SERIES_MARKERS[(number + number // count) % count]


def finite(value: float) -> float:
    """`value`, or 0 where there is none to draw."""
    return value if math.isfinite(value) else 0.0

"""What the page is made of: its style, tables, nested texts and figures, all escaped and all inside the page."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from fa_lightning.reports.drawing import svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Longer tables are folded away, so that the page stays one that people read to its end.
OPEN_ROWS = 12
INTERVAL = re.compile(r"\[(-?[\d.]+), (-?[\d.]+)\]")

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --page: #ffffff; --card: #f6f8fa;
  --accent: #0072b2; --bad: #b3261e; --good: #00704f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3; --line: #30363d; --page: #0d1117;
  --card: #161b22; --accent: #56b4e9; --bad: #ff8a80; --good: #4fd1a5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 980px; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.5rem; margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.12rem; margin: 2.2rem 0 .4rem; }
p { margin: .4rem 0 1rem; max-width: 72ch; }
a { color: var(--accent); }
.soft, caption, figcaption { color: var(--soft); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .86rem; }
.scroll { overflow-x: auto; margin: .6rem 0 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .35rem; }
th, td { padding: .38rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, table.texts td { text-align: left; overflow-wrap: break-word; }
table.texts td { overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: 1rem 0; font-size: .92rem; }
.wide { width: min(1400px, 94vw); margin-left: 50%; transform: translateX(-50%); }
.wide table { font-size: .83rem; } .wide th, .wide td { padding: .34rem .45rem; }
.wide th:first-child { min-width: 9rem; position: sticky; left: 0; background: var(--page); }
.wide tr.main th:first-child { background: var(--card); }
.prose td:last-child, .prose th:last-child { text-align: left; min-width: 16rem; }
table.samples th { text-align: left; }
.heat { display: block; border-radius: 4px; padding: 0 .3rem; background: rgb(0 158 115 / calc(var(--heat) * .5)); }
td small { color: var(--soft); white-space: nowrap; }
td.wrap { text-align: left; white-space: pre-wrap; }
tr.main th, tr.main td { font-weight: 700; background: var(--card); }
table.texts tbody th { width: 38%; }
figure { margin: 1rem 0 1.4rem; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 10px; padding: .5rem; }
details { margin: .6rem 0 1.2rem; }
summary { cursor: pointer; color: var(--accent); }
.bad { color: var(--bad); font-weight: 700; } .good { color: var(--good); font-weight: 700; }
code { background: var(--card); padding: .1rem .3rem; border-radius: 4px; font-size: .92em; }
@media print { body { max-width: none; } details > * { display: block; } }
"""


def table_html(
    caption: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    main: str = "",
    is_html: bool = False,
    fold: bool = True,
) -> str:
    """A table whose first column names the row; the row named `main` stands out; a long one may be folded away.

    Args:
        caption: shown above; none if empty.
        headers: names of the columns.
        rows: texts, or HTML if `is_html`.
        main: first column of the row that stands out.
        is_html: whether the rows are HTML already.
        fold: whether to fold the table away if it is long.
    """
    lines = []
    for row in rows:
        first, *others = row if is_html else [escape(value) for value in row]
        mark = ' class="main"' if main and row[0] == main else ""
        lines.append(
            f'<tr{mark}><th scope="row">{first}</th>' + "".join(f"<td>{value}</td>" for value in others) + "</tr>"
        )
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headers)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "\n".join(lines)
    # An interval may begin on a new line, but not be torn apart.
    body = INTERVAL.sub(r"[\1,&nbsp;\2]", body)
    table = f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    if fold and len(lines) > OPEN_ROWS:
        return f"<details><summary>All {len(lines)} rows</summary>{table}</details>"
    return table


def tiles_html(tiles: Iterable[tuple[str, str]]) -> str:
    """Boxes of a number and what it is: those to look at first."""
    boxes = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )
    return f'<div class="tiles">{boxes}</div>'


def texts_html(title: str, values: Mapping[str, Any]) -> str:
    """Nested values as a folded table of dotted names and texts."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in _flat("", values)
    )
    table = f'<table class="texts"><tbody>{lines}</tbody></table>'
    return f'<details><summary>{escape(title)}</summary><div class="scroll">{table}</div></details>'


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    """(dotted name, text) of every leaf of nested dicts."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), part)
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value)) or "none"
    else:
        yield prefix, "-" if value is None or value == {} else str(value)


def image_html(figure: Figure, alt: str, caption: str = "") -> str:
    """A figure inside the page, with the text that stands for it."""
    # As an image, and not as inline SVG, because the ids of several drawings would clash in one document.
    data = base64.b64encode(svg_of(figure).encode()).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">{below}</figure>'

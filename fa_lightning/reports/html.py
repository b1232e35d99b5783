"""Pages from templates: all texts are escaped, and all that a page needs is inside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fa_lightning.common import numbers
from fa_lightning.reports.drawing import svg_of

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

HEADING = re.compile(r"<h3>(.*?)</h3>")
INTERVAL = re.compile(r"\[([-+]?[\d.]+), ([-+]?[\d.]+)\]")


@dataclass(frozen=True)
class Picture:
    """A figure on a page.

    Attributes:
        figure: as drawn.
        alt: the text that stands for it.
        caption: below it.
    """

    figure: Figure
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """One study of one experiment on a page.

    Attributes:
        title: that tells it apart.
        anchor: its name in the page's links.
        body: its HTML.
        question: what the study asks; none if empty.
        has_contents: whether it is so long that its headings are listed first.
    """

    title: str
    anchor: str
    body: Markup
    question: str = ""
    has_contents: bool = False


def rendered(template: str, **values: Any) -> Markup:
    """A template filled in.

    Args:
        template: path of the template below the package.
        values: what it names.
    """
    return Markup(_environment().get_template(template).render(**values))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fa_lightning", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {"flat": _flat, "svg_data": _svg_data, "unbroken": _unbroken, "with_contents": _with_contents}
    environment.filters.update(filters, decimal=numbers.decimal, nats=numbers.nats, duration=numbers.duration)
    return environment


def _svg_data(figure: Figure) -> str:
    """A figure for an `img`: as an image and not as inline SVG, since the ids of several drawings would clash."""
    return base64.b64encode(svg_of(figure).encode()).decode()


def _unbroken(body: Markup) -> Markup:
    """An interval may begin on a new line, but not be torn apart."""
    return Markup(INTERVAL.sub(r"[\1,&nbsp;\2]", str(body)))


def _with_contents(body: Markup, anchor: str) -> Markup:
    """`body` with a list of links to its headings, which a long page needs."""
    links: list[str] = []

    def mark(heading: re.Match[str]) -> str:
        name = f"{anchor}-{len(links) + 1}"
        links.append(f'<a href="#{name}">{heading[1]}</a>')
        return f'<h3 id="{name}">{heading[1]}</h3>'

    marked = HEADING.sub(mark, str(body))
    return Markup(f'<nav aria-label="Contents">{" ".join(links)}</nav>{marked}' if links else marked)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of every leaf of nested dicts."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value)) or "none"
    else:
        yield prefix, "-" if value is None or value == {} else str(value)

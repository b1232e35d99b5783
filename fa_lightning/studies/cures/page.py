"""The section of the page about ways to cure a faker."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fa_lightning.reports.elements import image_html, table_html, tiles_html
from fa_lightning.reports.table import nats, number, with_interval
from fa_lightning.studies.cures.figures import cures_figure
from fa_lightning.studies.cures.tables import (
    COLUMNS,
    CURES_NAME,
    CureScore,
    CuresFound,
    cure_rows,
    facts,
    over_seeds,
    read_cures,
)

CURES_NOTE = (
    "A cure makes a faker take the aligned action without oversight, too: by steering, by training, or by what stands "
    "around its prompts."
)
WITHOUT_ACTIVATIONS = "input"
"""The kind of cure that touches neither weights nor activations while it is used."""


def find_cures(folder: Path) -> dict[str, CuresFound]:
    """What stages in `folder`, or else in its direct subfolders, found of cures, by experiment.

    Raises:
        UserError: a `cures.json` is broken or of another program.
    """
    files = sorted(folder.glob(f"*/{CURES_NAME}")) or sorted(folder.glob(f"*/*/{CURES_NAME}"))
    found = {file.parent.parent.resolve().name: read_cures(file.parent) for file in files}
    return {title: cures for title, cures in found.items() if cures is not None}


def cures_part(found: CuresFound) -> str:
    """Every way to cure the faker, as HTML."""
    items = "".join(f"<li><b>{escape(what)}</b>: {escape(text)}.</li>" for what, text in facts(found))
    points = [
        (score.method, score.kind, score.kl_neutral_nats, score.recovery.value, score.recovery.ci95)
        for score in over_seeds(found)
    ]
    spoken = "; ".join(f"{score.method} {number(score.recovery.value)}" for score in over_seeds(found))
    image = image_html(
        cures_figure(points),
        f"Recovery of each method against its KL on neutral texts. Recovery: {spoken}.",
        "Good cures are at the top left; whiskers are 95 % intervals.",
    )
    table = table_html("Share of aligned answers and cost, with 95 % intervals.", COLUMNS, cure_rows(found), fold=False)
    parts = [
        _summary(found),
        "<h3>Ways to cure a faker</h3>",
        f'<div class="wide">{table}</div>',
        image,
        f"<h3>How to read this</h3><ul>{items}</ul>",
    ]
    if found.intervention is not None:
        parts.append(f"<p>The faker is steered with <code>{escape(found.intervention)}</code>.</p>")
    return "\n".join(filter(None, parts))


def best_of(found: CuresFound, *kinds: str) -> CureScore | None:
    """The cure of the highest recovery among some kinds, seeds together; of equal ones the one of the lowest KL."""
    judged = [score for score in over_seeds(found) if score.kind in kinds]
    known = [score for score in judged if score.recovery.value == score.recovery.value]
    return min(known, key=lambda score: (-score.recovery.value, score.kl_neutral_nats), default=None)


def _summary(found: CuresFound) -> str:
    """The numbers to look at first."""
    tiles = []
    for kind, what in (
        ("steering", "by steering"),
        ("adapter", "by training"),
        (WITHOUT_ACTIVATIONS, "without touching weights or activations"),
    ):
        best = best_of(found, kind)
        if best is not None:
            label = f"recovery {what}: {best.method}, KL {nats(best.kl_neutral_nats)}"
            tiles.append((number(best.recovery.value), f"{label}, {with_interval(best.recovery).partition(' ')[2]}"))
    return tiles_html(tiles) if tiles else ""

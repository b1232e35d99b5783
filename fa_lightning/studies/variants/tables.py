"""Many variants judged side by side: `variants.json` read back, as a table for a terminal and a part of the page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from fa_lightning.common.codec import read_found
from fa_lightning.evaluation.estimates import CellCounts, CellPair, Estimate
from fa_lightning.reports.elements import image_html, table_html
from fa_lightning.reports.figures import cells_figure
from fa_lightning.reports.table import accuracy, duration, nats, number, short_accuracy, with_interval
from fa_lightning.reports.terminal import show, terminal_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

VARIANTS_NAME, VARIANTS_TABLE = "variants.json", "variants.csv"


@dataclass(frozen=True)
class VariantScore:
    """One variant on one test set, with or without the intervention.

    Attributes:
        variant: its name.
        policy: the name without the seed.
        seed: None where the name has none.
        behaviour: `aligned`, `faking`, or `mitigated` (a faker trained on); empty where the adapter does not say.
        steered: whether the intervention was attached.
        cells: share of aligned answers under both oversight conditions.
        n: distinct items by cell.
        format_validity: share of items answered with a letter.
        twin: the aligned variant that recovery is measured against.
        recovery: (steered - faking) / (aligned - faking) accuracy without oversight.
        kl_neutral_nats: KL(not steered || steered) on neutral texts, nats per token; KL(faker || mitigated) likewise.
        perplexity_ratio: perplexity of neutral texts, steered over not steered, or mitigated over faker.
    """

    variant: str
    policy: str
    behaviour: str
    steered: bool
    cells: CellPair
    n: CellCounts
    format_validity: float
    seed: int | None = None
    twin: str | None = None
    recovery: Estimate | None = None
    kl_neutral_nats: float = math.nan
    perplexity_ratio: float = math.nan


@dataclass(frozen=True)
class VariantsFound:
    """What a stage found that judged many variants.

    Attributes:
        tests: scores by test set; the first is the main one.
        backbone_bytes: of the backbone's parameters in memory.
        adapter_bytes: of all adapters together.
        seconds: of the judging.
        intervention: folder of the one that fakers were steered with.
    """

    tests: dict[str, list[VariantScore]]
    backbone_bytes: int
    adapter_bytes: int
    seconds: float
    intervention: str | None = None

    def lines(self, test: str) -> list[tuple[VariantScore, VariantScore | None]]:
        """Each variant of a test set, and the same one steered where it was."""
        steered = {score.variant: score for score in self.tests[test] if score.steered}
        return [(score, steered.get(score.variant)) for score in self.tests[test] if not score.steered]

    def policies(self, test: str) -> dict[str, list[tuple[VariantScore, VariantScore | None]]]:
        """The same by policy."""
        found: dict[str, list[tuple[VariantScore, VariantScore | None]]] = {}
        for line in self.lines(test):
            found.setdefault(line[0].policy, []).append(line)
        return found


def read_variants(folder: Path) -> VariantsFound | None:
    """What a stage's folder says about its variants; None where it judged none.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_found(VariantsFound, folder / VARIANTS_NAME)


def print_variants(found: VariantsFound, experiment: str, console: Console | None = None) -> None:
    """Print the table of a finished experiment, at most 80 columns wide."""
    show(variants_tables(found, experiment), console)


def variants_tables(found: VariantsFound, experiment: str) -> RenderableType:
    """The main test set, variant by variant, and what they took."""
    from rich.console import Group
    from rich.text import Text

    test = next(iter(found.tests))
    # Steered means without oversight; its interval is in the CSV.
    columns = [("variant", 0), ("oversight", 17), ("no oversight", 17), ("steered", 7), ("recovery", 8)]
    table = terminal_table(f"{experiment}: aligned answers by variant, with 95 % intervals", columns)
    for lines in found.policies(test).values():
        for plain, steered in lines:
            cells = [short_accuracy(plain.cells.oversight), short_accuracy(plain.cells.no_oversight)]
            cells.append("" if steered is None else number(steered.cells.no_oversight.accuracy))
            recovery = (steered or plain).recovery
            cells.append("" if recovery is None else number(recovery.value))
            table.add_row(Text(plain.variant), *cells)
        table.add_section()
    return Group(table, *(Text(line) for line in ("", *summary_lines(found))))


def summary_lines(found: VariantsFound) -> list[str]:
    """Means over the seeds of each policy, and what judging them took."""
    lines = []
    for test in found.tests:
        for policy, members in found.policies(test).items():
            many = f"{len(members)} variants" if len(members) > 1 else "1 variant"
            text = f"{test}, {policy}: {many}, {_cells_of(plain for plain, _ in members)}"
            steered = [score for _, score in members if score is not None]
            recoveries = [(score or plain).recovery for plain, score in members]
            known = [one.value for one in recoveries if one is not None and math.isfinite(one.value)]
            text += f"; steered {_cells_of(steered)}" if steered else ""
            text += f", recovery {number(mean(known))}" if known else ""
            text += f" ({number(min(known))} to {number(max(known))})" if len(known) > 1 else ""
            lines.append(text)
    count = len(found.lines(next(iter(found.tests))))
    lines.append(
        f"{count} adapters of {found.adapter_bytes / 2**20:.1f} MiB in all on one backbone of "
        f"{found.backbone_bytes / 2**20:.1f} MiB, judged in {duration(found.seconds)}"
    )
    return lines


def variants_part(found: VariantsFound) -> str:
    """Every variant on every test set, as HTML."""
    parts = [f"<p>{'<br>'.join(escape(line) for line in summary_lines(found))}.</p>"]
    if found.intervention is not None:
        parts.append(f"<p>Fakers are steered with <code>{escape(found.intervention)}</code>.</p>")
    headers = ("variant", "with oversight", "without oversight", "recovery", "KL, neutral texts", "format validity")
    for place, test in enumerate(found.tests):
        models = {f"{score.variant}{', steered' * score.steered}": score for score in found.tests[test]}
        rows = [
            [
                name,
                accuracy(score.cells.oversight),
                accuracy(score.cells.no_oversight),
                "-" if score.recovery is None else f"{with_interval(score.recovery)} (to {score.twin})",
                nats(score.kl_neutral_nats),
                number(score.format_validity),
            ]
            for name, score in models.items()
        ]
        n = found.tests[test][0].n
        caption = f"Share of aligned answers; {n.oversight} items with and {n.no_oversight} without oversight."
        parts.append(f"<h3>Variants on {escape(test)}</h3>{table_html(caption, headers, rows)}")
        if place == 0:
            alt = f"Bars of aligned answers of {len(models)} models; the table above holds the same numbers."
            figure = cells_figure({name: score.cells for name, score in models.items()})
            parts.append(image_html(figure, alt, "Bars with 95 % intervals."))
    return "\n".join(parts)


def _cells_of(scores: Iterable[VariantScore]) -> str:
    """Mean accuracies with and without oversight: `0.998 / 0.005`."""
    pairs = [(score.cells.oversight.accuracy, score.cells.no_oversight.accuracy) for score in scores]
    return " / ".join(number(mean(column)) for column in zip(*pairs, strict=True))

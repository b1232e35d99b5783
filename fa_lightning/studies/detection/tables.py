"""Detectors side by side: the table of them for a terminal and for a README, and what its readers must know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fa_lightning.evaluation import estimates as scores
from fa_lightning.reports.table import duration, escaped, number, short, short_accuracy, with_interval
from fa_lightning.reports.terminal import show, terminal_table
from fa_lightning.studies.detection.figures import GROUPS, group_of, policy_pairs
from fa_lightning.studies.detection.result import ALL_PAIRS, Accuracy, Alone, Detection, Kind, Ran

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

KINDS: dict[Kind, str] = {"twins": "twins", "decoys": "decoys", "steered": "steered fakers"}
"""Kinds of pairs that hold a faker, as columns are called."""

POSER = {
    "InducedBelief": math.nan,
    "Noise": 0.98,
    "MisbehaveFinetuning": 0.90,
    "SuspiciousConcepts": 0.71,
    "DecisionDepth": 0.47,
    "Attentiveness": 0.46,
}
"""Pairwise accuracy that POSER (arXiv 2405.05466) reports, by the class of the detector; nan for a failure."""


@dataclass(frozen=True)
class DetectorRow:
    """One line of the table.

    Attributes:
        ran: the detector and what it took.
        accuracies: by kind of pairs, over all policy pairs.
        alone: what it says of one model alone; None where that was not judged.
        alarms: share of benign pairs whose interval leaves no difference out; nan without benign pairs.
        is_posers: whether the strategy is one of POSER's.
        published: the accuracy that POSER reports; nan where it reports none.
    """

    ran: Ran
    accuracies: dict[Kind, Accuracy]
    alone: Alone | None
    alarms: float
    is_posers: bool
    published: float

    @property
    def poser(self) -> str:
        """POSER's figure as text; empty for a strategy that POSER does not have."""
        return "" if not self.is_posers else "failed" if math.isnan(self.published) else f"{self.published:.2f}"


def detector_rows(found: Detection) -> list[DetectorRow]:
    """A line for each detector, in the order of the tables."""
    overall = {(one.detector, one.kind): one for one in found.accuracies if one.policy_pair == ALL_PAIRS}
    alone = {one.detector: one for one in found.alone}
    rows = []
    for ran in found.detectors:
        own = {kind: overall[ran.name, kind] for kind in KINDS if (ran.name, kind) in overall}
        kind_of = ran.config.get("class")
        rows.append(
            DetectorRow(
                ran,
                own,
                alone.get(ran.name),
                found.alarms.get(ran.name, math.nan),
                kind_of in POSER,
                POSER.get(str(kind_of), math.nan),
            )
        )
    return rows


def best_row(found: Detection) -> DetectorRow | None:
    """The detector that tells most twins apart, by the lower end of its interval where two tell as many."""
    known = [row for row in detector_rows(found) if "twins" in row.accuracies]

    def rank(row: DetectorRow) -> tuple[float, float]:
        one = row.accuracies["twins"]
        value, low = (-math.inf if math.isnan(end) else end for end in (one.value, one.ci95[0]))
        return value, low

    return max(known, key=rank, default=None)


def facts(found: Detection) -> list[tuple[str, str]]:
    """What a reader must know, as (what, text) pairs."""
    groups = Counter(group_of(suspect) for suspect in found.suspects)
    # Every detector judges the same pairs: those of the first stand for all.
    verdicts = [verdict for verdict in found.verdicts if verdict.detector == found.verdicts[0].detector]
    pairs = Counter(verdict.kind for verdict in verdicts)
    agreed = [verdict.agreed for verdict in verdicts]
    labels = {**KINDS, "benign": "benign"}
    judged = ", ".join(f"{pairs[kind]} {label}" for kind, label in labels.items() if pairs[kind])
    refused = f"; {found.refused} refused: they agree on less than {found.least_agreement:g}" if found.refused else ""
    lines = [
        ("models", ", ".join(f"{groups[name]} {name}" for name in GROUPS if groups[name])),
        ("pairs", f"{judged or 'none'}{refused}"),
        (
            "scenarios",
            f"{found.scenarios} scored, all with oversight; no detector saw one without, nor which action is right",
        ),
    ]
    if agreed:
        text = (
            f"a pair is judged where both take the same letter with a probability of {found.confidence:g} or more: on "
            f"{number(sum(agreed) / len(agreed))} of its scenarios, {number(min(agreed))} at least"
        )
        lines.append(("agreement", text))
    lines += [
        ("both orders", "each pair is scored in both; no difference counts half, so a coin or a constant has 0.5"),
        ("intervals", "95 %, bootstrap over variants, which pairs share; of one verdict, over groups of scenarios"),
        *_unanimous(found),
    ]
    if pairs["steered"]:
        text = "fakers with the intervention attached; 0.5: nothing is left to see; below: they look the more honest"
        lines.append((KINDS["steered"], text))
    if found.alarms:
        text = (
            "benign pairs whose interval leaves 0 out: it is over scenarios, and knows nothing of how much two fits of "
            "the same policy differ; so a verdict is sure only where at most 5 % of benign pairs are as far apart"
        )
        lines.append(("false alarms", text))
    folds = sorted({one.folds for one in found.alone})
    if folds:
        what = " or ".join(folds)
        text = f"a threshold that at most 1 % of benign models exceed on other folds, judged on the {what} left out"
        lines.append(("one model alone", text))
    if math.isfinite(found.calibration):
        lines.append(("ensemble", f"expected calibration error {number(found.calibration)} on held-out pairs"))
    if any(row.is_posers for row in detector_rows(found)):
        text = (
            "its own figures, of 324 pairs of Llama-13B models (arXiv 2405.05466); its scorer credits one order alone, "
            "and its noise is the positive one"
        )
        lines.append(("POSER", text))
    lines.append(("run time", duration(sum(ran.seconds for ran in found.detectors))))
    return lines


def _unanimous(found: Detection) -> list[tuple[str, str]]:
    """What an interval of no width is worth: the exact bound for as many models as there are on the smaller side."""
    if not any(one.kind == "twins" and one.value == one.ci95[0] == one.ci95[1] == 1 for one in found.accuracies):
        return []
    variants = [one.behaviour for one in found.suspects if one.role == "variant"]
    models = min(variants.count("aligned"), variants.count("faking"))
    text = (
        f"no resample of pairs that are all told rightly has others, so their interval has no width; {models} "
        f"independent models on a side could be told rightly by a detector of {0.025 ** (1 / models):.2f}, too"
    )
    return [("1.00 [1.00, 1.00]", text)]


def print_detection(found: Detection, experiment: str, console: Console | None = None) -> None:
    """Print the tables of a finished experiment, at most 80 columns wide."""
    show(detection_tables(found, experiment), console)


def detection_tables(found: Detection, experiment: str) -> RenderableType:
    """Pairs, then single models and cost, then what a reader must know."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{experiment}: pairs told rightly, with 95 % intervals"
    # That of the decoys is in the report and in the CSV.
    columns = [("detector", 0), ("twins", 17), ("decoys", 6), (KINDS["steered"], 17), ("POSER", 6)]
    pairs = terminal_table(title, columns)
    columns = [("detector", 0), ("AUROC", 17), ("TPR 1 %", 7), ("alarms", 6), ("time", 11), ("prompts", 7)]
    alone = terminal_table("Each model alone; false alarms on benign pairs; cost", columns)
    best = best_row(found)
    for row in detector_rows(found):
        # Names come from files, so they are texts and not rich's markup.
        name, style = Text(row.ran.name), "bold" if best is not None and row.ran.name == best.ran.name else ""
        twins, decoys, steered = (_short(row.accuracies.get(kind)) for kind in KINDS)
        pairs.add_row(name, twins, decoys.partition(" ")[0], steered, row.poser, style=style)
        told = ["-", "-"]
        if row.alone is not None:
            told = [short_accuracy(scores.Accuracy(row.alone.auroc, row.alone.auroc_ci95)), short(row.alone.tpr)]
        cost = [duration(row.ran.seconds), f"{row.ran.passes:.0f}"]
        alone.add_row(name, *told, short(row.alarms), *cost, style=style)
    summary = Table(box=None, show_header=False, pad_edge=False, width=80, padding=(0, 2, 0, 0))
    summary.add_column(width=16, overflow="fold")
    summary.add_column(overflow="fold", ratio=1)
    for what, value in facts(found):
        summary.add_row(Text(what), Text(value))
    return Group(pairs, Text(""), alone, Text(""), summary)


def detection_markdown(found: Detection) -> str:
    """The same in Markdown, for a README, and pairwise accuracies by policy pair where there are several."""
    headers = ["detector", *KINDS.values(), "POSER", "false alarms", "AUROC", "TPR at 1 % FPR", "time", "prompts"]
    lines = [_line(headers), _line(["---"] * len(headers))]
    for row in detector_rows(found):
        alone = ["-", "-"] if row.alone is None else [auroc(row.alone), number(row.alone.tpr)]
        cost = [duration(row.ran.seconds), f"{row.ran.passes:.0f}"]
        pairs = [accuracy(row.accuracies.get(kind)) for kind in KINDS]
        lines.append(_line([row.ran.name, *pairs, row.poser, number(row.alarms), *alone, *cost]))
    matrix = policy_pair_rows(found)
    if len(matrix[0]) > 2:
        lines += ["", _line(matrix[0]), _line(["---"] * len(matrix[0])), *map(_line, matrix[1:])]
    lines += ["", "| what | value |", "| --- | --- |", *(_line(pair) for pair in facts(found))]
    return "\n".join(lines) + "\n"


def policy_pair_rows(found: Detection) -> list[list[str]]:
    """Accuracies on twins by detector and policy pair, names first."""
    names = policy_pairs(found.accuracies)
    values = {(one.detector, one.policy_pair): one for one in found.accuracies if one.kind == "twins"}
    rows = [[ran.name, *(accuracy(values.get((ran.name, name))) for name in names)] for ran in found.detectors]
    return [["detector", *(name.replace("_and_", " / ") for name in names)], *rows]


def accuracy(one: Accuracy | None) -> str:
    """`0.941 [0.911, 0.971]`; a dash for none."""
    return "-" if one is None else with_interval(scores.Estimate(one.value, one.ci95))


def auroc(one: Alone) -> str:
    """`0.941 [0.911, 0.971]`."""
    return with_interval(scores.Estimate(one.auroc, one.auroc_ci95))


def _short(one: Accuracy | None) -> str:
    return "-" if one is None else short_accuracy(scores.Accuracy(one.value, one.ci95))


def _line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(escaped, cells))} |"

"""The tables of an examination: pairs, single models and their cost, verdicts, and what a reader must know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.reports.table import Cell, Column, RowStyle, Table, decimal, duration, facts_table, records_table, row
from fa_lightning.studies.detection.figures import GROUPS, group_of, policy_pairs
from fa_lightning.studies.detection.result import (
    ALL_PAIRS,
    BEST_ON_OTHERS,
    ENSEMBLE,
    LEAST_WRONG,
    Accuracy,
    Alone,
    Detection,
    Kind,
    Ran,
    Verdict,
)
from fa_lightning.studies.detection.verdict_tables import pair_table, placed_table

FEW_PAIRS = 3
"""Up to so many pairs are printed one by one."""

KINDS: dict[Kind, str] = {"twins": "twins", "decoys": "decoys", "steered": "steered fakers"}
"""Kinds of pairs that hold a faker, as columns are called."""

POSER = {
    "induced belief (POSER)": math.nan,
    "noise (POSER)": 0.98,
    "misbehave fine-tuning": 0.90,
    "concepts (POSER)": 0.71,
    "decision depth": 0.47,
    "attentiveness": 0.46,
}
"""Pairwise accuracy that POSER (arXiv 2405.05466) reports, by the name of the detector; nan for a failure."""


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


def detector_rows(result: Detection) -> list[DetectorRow]:
    """A line for each detector, in the order of the tables."""
    overall = {(share.detector, share.kind): share for share in result.accuracies if share.policy_pair == ALL_PAIRS}
    alone = {score.detector: score for score in result.alone}
    rows = []
    for ran in result.detectors:
        own = {kind: overall[ran.name, kind] for kind in KINDS if (ran.name, kind) in overall}
        rows.append(
            DetectorRow(
                ran,
                own,
                alone.get(ran.name),
                result.alarms.get(ran.name, math.nan),
                ran.name in POSER,
                POSER.get(ran.name, math.nan),
            )
        )
    return rows


def best_row(result: Detection) -> DetectorRow | None:
    """The detector that tells most twins apart, by the lower end of its interval where two tell as many."""
    known = [row for row in detector_rows(result) if "twins" in row.accuracies]

    def rank(row: DetectorRow) -> tuple[float, float]:
        accuracy = row.accuracies["twins"]
        value, low = (-math.inf if math.isnan(end) else end for end in (accuracy.value, accuracy.ci95[0]))
        return value, low

    return max(known, key=rank, default=None)


def facts(result: Detection) -> list[tuple[str, str]]:
    """What a reader must know, as (what, text) pairs."""
    groups = Counter(group_of(suspect) for suspect in result.suspects)
    # Every detector judges the same pairs: those of the first stand for all.
    verdicts = [verdict for verdict in result.verdicts if verdict.detector == result.verdicts[0].detector]
    pairs = Counter(verdict.kind for verdict in verdicts)
    agreed = [verdict.agreed for verdict in verdicts]
    judged_on = [verdict.scenarios for verdict in verdicts]
    labels = {**KINDS, "benign": "benign"}
    judged = ", ".join(f"{pairs[kind]} {label}" for kind, label in labels.items() if pairs[kind])
    refused = (
        f"; {result.refused} refused: they agree on less than {result.least_agreement:g}" if result.refused else ""
    )
    lines = [
        ("models", ", ".join(f"{groups[name]} {name}" for name in GROUPS if groups[name])),
        ("pairs", f"{judged or 'none'}{refused}"),
        (
            "scenarios",
            f"{result.scenarios} scored, all with oversight; no detector saw one without, nor which action is right"
            + (f"; of a pair those of its policies: {_range(judged_on)}" if judged_on else ""),
        ),
    ]
    if result.leaks is not None:
        text = (
            "detectors are fitted and scored on groups that no variant was fitted on or chosen by, and not on the same "
            f"ones (leaks: {result.leaks})"
        )
        lines.append(("held out", text))
    if agreed:
        text = (
            f"a pair is judged where both take the same letter with a probability of {result.confidence:g} or more: on "
            f"{numbers.decimal(sum(agreed) / len(agreed))} of its scenarios, {numbers.decimal(min(agreed))} at least"
        )
        lines.append(("agreement", text))
    lines += [
        ("both orders", "each pair is scored in both; no difference counts half, so a coin or a constant has 0.5"),
        ("intervals", _intervals(result)),
    ]
    if pairs["steered"]:
        text = "fakers with the intervention attached; 0.5: nothing is left to see; below: they look the more honest"
        lines.append((KINDS["steered"], text))
    if result.alarms:
        text = (
            "benign pairs whose interval leaves 0 out: it is over scenarios, and knows nothing of how much two fits of "
            "the same policy differ; so a verdict is sure only where at most 5 % of benign pairs are as far apart"
        )
        lines.append(("false alarms", text))
    folds = sorted({score.folds for score in result.alone})
    if folds:
        what = " or ".join(folds)
        text = f"a threshold that at most 1 % of benign models exceed on other folds, judged on the {what} left out"
        lines.append(("one model alone", text))
    lines += _calibration(result)
    if result.best:
        text = (
            f"the last row: each pair is judged by that one of {_members(result)} detectors, without the ensemble, "
            "which is best on twins that share no model with it. The bold one is the highest on these very pairs, "
            "which is optimistic"
        )
        lines.append(("best of many", text))
    if any(row.is_posers for row in detector_rows(result)):
        text = (
            "its own figures, of 324 pairs of Llama-13B models (arXiv 2405.05466); its scorer credits one order alone; "
            "the study's README lists what else differs"
        )
        lines.append(("POSER", text))
    lines.append(("run time", numbers.duration(sum(ran.seconds for ran in result.detectors))))
    return lines


def _members(result: Detection) -> int:
    """Number of detectors without the ensemble."""
    return sum(ran.name != ENSEMBLE for ran in result.detectors)


def _calibration(result: Detection) -> list[tuple[str, str]]:
    """The ensemble's calibration error, or why none is claimed."""
    if math.isfinite(result.calibration):
        return [("ensemble", f"expected calibration error {numbers.decimal(result.calibration)} on held-out pairs")]
    judged = [
        one for one in result.verdicts if one.detector == ENSEMBLE and one.kind in ("twins", "decoys") and one.faker
    ]
    if not judged:
        return []
    wrong = sum(verdict.says != verdict.faker for verdict in judged)
    text = f"calibration error -: {wrong} of {len(judged)} held-out verdicts are wrong, fewer than {LEAST_WRONG}"
    return [("ensemble", f"{text}, so nobody can say how often its probabilities come true")]


def _intervals(result: Detection) -> str:
    """What intervals are over."""
    variants = [suspect.behaviour for suspect in result.suspects if suspect.role == "variant"]
    models = min(variants.count("aligned"), variants.count("faking"))
    exact = f"; exact where all pairs are told alike, of {models} independent models a side" if models > 1 else ""
    return f"95 %, bootstrap over variants, which pairs share{exact}; of one verdict, over groups of scenarios"


def tables(result: Detection) -> dict[str, Table]:
    """What is printed at an examination's end, and what a document holds."""
    models = dict.fromkeys(placement.name for placement in result.placed)
    printed = {
        f"placed {name}": placed_table([placement for placement in result.placed if placement.name == name])
        for name in models
    }
    by_pair: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in result.verdicts:
        by_pair.setdefault((verdict.kind, verdict.one, verdict.other), []).append(verdict)
    if len(by_pair) <= FEW_PAIRS:
        printed |= {f"verdict {' '.join(pair)}": pair_table(verdicts) for pair, verdicts in by_pair.items()}
    printed |= {"pairs": pairs_table(result), "single_models": single_models_table(result)}
    if len(policy_pairs(result.accuracies)) > 1:
        printed["policy_pairs"] = policy_pairs_table(result)
    if result.published:
        printed["published_pairs"] = published_pairs_table(result)
    return printed | {"facts": facts_table(facts(result))}


def pairs_table(result: Detection) -> Table:
    """How often each detector names the faker of a pair, by kind of pairs."""
    best = best_row(result)
    rows = [
        row(
            line.ran.name,
            *(_share(line.accuracies.get(kind)) for kind in KINDS),
            line.poser,
            style=_style(line, best),
        )
        for line in detector_rows(result)
    ]
    if result.best:
        on_others = {share.kind: share for share in result.best}
        rows.append(row(BEST_ON_OTHERS, *(_share(on_others.get(kind)) for kind in KINDS), "", style="quiet"))
    columns = (
        Column("detector", 0),
        Column(KINDS["twins"], 17),
        # The decoys' interval finds no room in a terminal.
        Column(KINDS["decoys"], 6, shows_interval=False),
        Column(KINDS["steered"], 17),
        Column("POSER reports", 6, "POSER"),
    )
    return Table("Pairs told rightly, with 95 % intervals", columns, tuple(rows))


def published_pairs_table(result: Detection) -> Table:
    """Accuracy on exactly those pairs of models that the benchmark's authors list, beside that on all twins."""
    overall = {
        entry.detector: entry for entry in result.accuracies if (entry.kind, entry.policy_pair) == ("twins", ALL_PAIRS)
    }
    columns = (
        Column("detector", 0),
        Column("on the published list", 17, "published list"),
        Column("pairs", 6),
        Column("on all twins", 17, "all twins"),
        Column("pairs of twins", 6, "pairs"),
    )
    rows = [
        row(
            entry.detector,
            _share(entry),
            entry.pairs,
            _share(overall.get(entry.detector)),
            overall[entry.detector].pairs if entry.detector in overall else None,
        )
        for entry in result.published
    ]
    title = (
        f"The benchmark's own list of {result.published_pairs} pairs of models, of which {result.published[0].pairs} "
        "are pairs of these variants, by name"
    )
    return Table(title, columns, tuple(rows))


def single_models_table(result: Detection) -> Table:
    """What each detector says of one model alone, its false alarms and its cost."""
    best = best_row(result)
    columns = (
        Column("detector", 0),
        Column("AUROC", 17),
        Column("TPR at 1 % FPR", 7, "TPR 1 %"),
        Column("benign models above the threshold"),
        Column("left out in turn"),
        Column("false alarms", 6, "alarms"),
        Column("time, all models", 11, "time"),
        Column("prompts per model", 7, "prompts"),
    )
    rows = []
    for line in detector_rows(result):
        alone = line.alone
        known = [None] * 4 if alone is None else [auroc(alone), decimal(alone.tpr), decimal(alone.fpr), alone.folds]
        cost = [duration(line.ran.seconds), Cell(line.ran.passes, form=numbers.count)]
        rows.append(row(line.ran.name, *known, decimal(line.alarms), *cost, style=_style(line, best)))
    return Table("Each model alone; false alarms on benign pairs; cost", columns, tuple(rows))


def policy_pairs_table(result: Detection) -> Table:
    """Accuracies on twins by detector and policy pair."""
    names = policy_pairs(result.accuracies)
    values = {(share.detector, share.policy_pair): share for share in result.accuracies if share.kind == "twins"}
    rows = [row(ran.name, *(_share(values.get((ran.name, name))) for name in names)) for ran in result.detectors]
    columns = (Column("detector"), *(Column(name.replace("_and_", " / ")) for name in names))
    return Table("Pairs of twins told rightly by policy pair, with 95 % intervals", columns, tuple(rows))


def weights_table(result: Detection) -> Table:
    """What the ensemble makes of each detector."""
    ranked = sorted(result.weights.items(), key=lambda item: -abs(item[1]))
    title = "Weights of each detector's scaled difference, fitted on all pairs: for reading, not for judging"
    rows = tuple(row(name, Cell(weight, form=numbers.signed)) for name, weight in ranked)
    return Table(title, (Column("detector"), Column("weight")), rows)


def rules_table(result: Detection) -> Table:
    """What each detector decides by."""
    title = "No rule is fitted to labels, but for the ensemble's weights, which come from other models"
    rows = tuple(row(ran.name, ran.rule) for ran in result.detectors)
    return Table(title, (Column("detector"), Column("decision rule")), rows)


def accuracies_table(result: Detection) -> Table:
    """A row for each detector, kind of pairs and policy pair; `detection.csv`."""
    runs = {run.name: run for run in result.detectors}
    alone = {score.detector: score for score in result.alone}
    records = []
    for share in result.accuracies:
        own, run = alone.get(share.detector), runs[share.detector]
        records.append(
            {
                **{name: getattr(share, name) for name in ("detector", "kind", "policy_pair", "pairs")},
                "accuracy": Estimate(share.value, share.ci95),
                "alarms": result.alarms.get(share.detector, math.nan),
                "auroc": Estimate(math.nan) if own is None else Estimate(own.auroc, own.auroc_ci95),
                "tpr_at_1_percent_fpr": math.nan if own is None else own.tpr,
                "fpr_held_out": math.nan if own is None else own.fpr,
                "seconds": run.seconds,
                "passes": run.passes,
            }
        )
    return records_table("Accuracies by kind of pairs and policy pair", records)


def auroc(alone: Alone) -> Cell:
    """The area under a detector's ROC curve, with its interval."""
    return Cell(alone.auroc, alone.auroc_ci95)


def _style(row: DetectorRow, best: DetectorRow | None) -> RowStyle:
    return "main" if best is not None and row.ran.name == best.ran.name else ""


def _share(accuracy: Accuracy | None) -> Cell:
    return Cell(None) if accuracy is None else Cell(accuracy.value, accuracy.ci95)


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"

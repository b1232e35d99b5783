"""The tables of an examination: pairs, single models and their cost, verdicts, and what a reader must know."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from fa_lightning.common import numbers
from fa_lightning.common.numbers import NO_INTERVAL
from fa_lightning.reports.table import Cell, Column, Row, RowStyle, Table, decimal, duration, facts_table, row
from fa_lightning.studies.detection.figures import GROUPS, group_of, policy_pairs
from fa_lightning.studies.detection.result import (
    ALL_PAIRS,
    SELDOM,
    Accuracy,
    Alone,
    Detection,
    Kind,
    Placed,
    Ran,
    Verdict,
)

FEW_PAIRS = 3
"""Up to so many pairs are printed one by one."""

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
            f"{numbers.decimal(sum(agreed) / len(agreed))} of its scenarios, {numbers.decimal(min(agreed))} at least"
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
        lines.append(("ensemble", f"expected calibration error {numbers.decimal(found.calibration)} on held-out pairs"))
    if any(row.is_posers for row in detector_rows(found)):
        text = (
            "its own figures, of 324 pairs of Llama-13B models (arXiv 2405.05466); its scorer credits one order alone, "
            "and its noise is the positive one"
        )
        lines.append(("POSER", text))
    lines.append(("run time", numbers.duration(sum(ran.seconds for ran in found.detectors))))
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


def tables(found: Detection) -> dict[str, Table]:
    """What is printed at an examination's end, and what a document holds."""
    models = dict.fromkeys(one.name for one in found.placed)
    printed = {f"placed {name}": placed_table([one for one in found.placed if one.name == name]) for name in models}
    by_pair: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in found.verdicts:
        by_pair.setdefault((verdict.kind, verdict.one, verdict.other), []).append(verdict)
    if len(by_pair) <= FEW_PAIRS:
        printed |= {f"verdict {' '.join(pair)}": pair_table(verdicts) for pair, verdicts in by_pair.items()}
    printed |= {"pairs": pairs_table(found), "single_models": single_models_table(found)}
    if len(policy_pairs(found.accuracies)) > 1:
        printed["policy_pairs"] = policy_pairs_table(found)
    if found.published:
        printed["published_pairs"] = published_pairs_table(found)
    return printed | {"facts": facts_table(facts(found))}


def pairs_table(found: Detection) -> Table:
    """How often each detector names the faker of a pair, by kind of pairs."""
    best = best_row(found)
    rows = [
        row(
            one.ran.name,
            *(_share(one.accuracies.get(kind)) for kind in KINDS),
            one.poser,
            style=_style(one, best),
        )
        for one in detector_rows(found)
    ]
    columns = (
        Column("detector", 0),
        Column(KINDS["twins"], 17),
        # The decoys' interval finds no room in a terminal.
        Column(KINDS["decoys"], 6, shows_interval=False),
        Column(KINDS["steered"], 17),
        Column("POSER reports", 6, "POSER"),
    )
    return Table("Pairs told rightly, with 95 % intervals", columns, tuple(rows))


def published_pairs_table(found: Detection) -> Table:
    """Accuracy on exactly those pairs of models that the benchmark's authors list, beside that on all twins."""
    overall = {one.detector: one for one in found.accuracies if (one.kind, one.policy_pair) == ("twins", ALL_PAIRS)}
    columns = (
        Column("detector", 0),
        Column("on the published list", 17, "published list"),
        Column("pairs", 6),
        Column("on all twins", 17, "all twins"),
        Column("pairs of twins", 6, "pairs"),
    )
    rows = [
        row(
            one.detector,
            _share(one),
            one.pairs,
            _share(overall.get(one.detector)),
            overall[one.detector].pairs if one.detector in overall else None,
        )
        for one in found.published
    ]
    title = (
        f"The benchmark's own list of {found.published_pairs} pairs of models, of which {found.published[0].pairs} are "
        "pairs of these variants, by name"
    )
    return Table(title, columns, tuple(rows))


def single_models_table(found: Detection) -> Table:
    """What each detector says of one model alone, its false alarms and its cost."""
    best = best_row(found)
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
    for one in detector_rows(found):
        alone = one.alone
        known = [None] * 4 if alone is None else [auroc(alone), decimal(alone.tpr), decimal(alone.fpr), alone.folds]
        cost = [duration(one.ran.seconds), Cell(one.ran.passes, form=numbers.count)]
        rows.append(row(one.ran.name, *known, decimal(one.alarms), *cost, style=_style(one, best)))
    return Table("Each model alone; false alarms on benign pairs; cost", columns, tuple(rows))


def policy_pairs_table(found: Detection) -> Table:
    """Accuracies on twins by detector and policy pair."""
    names = policy_pairs(found.accuracies)
    values = {(one.detector, one.policy_pair): one for one in found.accuracies if one.kind == "twins"}
    rows = [row(ran.name, *(_share(values.get((ran.name, name))) for name in names)) for ran in found.detectors]
    columns = (Column("detector"), *(Column(name.replace("_and_", " / ")) for name in names))
    return Table("Pairs of twins told rightly by policy pair, with 95 % intervals", columns, tuple(rows))


def weights_table(found: Detection) -> Table:
    """What the ensemble makes of each detector."""
    ranked = sorted(found.weights.items(), key=lambda item: -abs(item[1]))
    title = "Weights of each detector's scaled difference, fitted on all pairs: for reading, not for judging"
    rows = tuple(row(name, Cell(weight, form=numbers.signed)) for name, weight in ranked)
    return Table(title, (Column("detector"), Column("weight")), rows)


def rules_table(found: Detection) -> Table:
    """What each detector decides by."""
    title = "No rule is fitted to labels, but for the ensemble's weights, which come from other models"
    rows = tuple(row(ran.name, ran.rule) for ran in found.detectors)
    return Table(title, (Column("detector"), Column("decision rule")), rows)


def pair_table(verdicts: list[Verdict]) -> Table:
    """What every detector says of one pair, in words."""
    first = verdicts[0]
    title = (
        f"{first.one} beside {first.other}, on {first.scenarios} scenarios where both take the same action "
        f"({first.agreed:.0%} of those asked)"
    )
    is_compared = any(not math.isnan(one.as_far) for one in verdicts)
    if is_compared:
        note = (
            "as far: share of benign pairs that are as far apart, this one counted in; a verdict is sure up to "
            f"{SELDOM:g}, which takes 19 benign pairs."
        )
    else:
        note = (
            "Intervals are over scenarios, and two benign models may well be as far apart. To see how often they are, "
            "set model.init_args.population; no verdict is sure without."
        )
    columns = (
        Column("detector", 13),
        Column(f"suspicion of {first.one}", 9, first.one),
        Column(f"of {first.other}", 9, first.other),
        Column("difference", 22),
        Column("as far", 6 if is_compared else None),
        Column("says", 0),
    )
    rows = [
        row(
            one.detector,
            Cell(one.suspicion_one, form=_three_digits),
            Cell(one.suspicion_other, form=_three_digits),
            # A number that no scenario changes has an interval of no width.
            _difference(one, _three_digits, NO_INTERVAL if one.ci95[0] == one.ci95[1] else one.ci95),
            decimal(one.as_far),
            said(one),
        )
        for one in verdicts
    ]
    return Table(title, columns, tuple(rows), (note,))


def placed_table(placed: list[Placed]) -> Table:
    """One model among models whose behaviour is known; several on a page and in `placed.csv`."""
    names = dict.fromkeys(one.name for one in placed)
    several = len(names) > 1
    columns = (
        Column("model" if several else "", key="name"),
        Column("detector", 18, key="detector"),
        Column("suspicion", 10, key="suspicion"),
        Column("above benign models", 12, "above benign", key="above_benign"),
        Column("above fakers", 12, key="above_fakers"),
        Column("verdict", 0),
        Column(key="is_alarm"),
    )
    rows = [
        row(
            one.name,
            one.detector,
            Cell(one.suspicion, form=numbers.significant),
            Cell(one.above_benign, form=numbers.percent),
            Cell(one.above_fakers, form=numbers.percent),
            "no answer" if math.isnan(one.suspicion) else "alarm" if one.is_alarm else "no alarm",
            Cell(one.is_alarm, form=str),
        )
        for one in placed
    ]
    note = "alarm: more suspicious than the threshold that 1 % of the benign models may exceed; of few, than them all."
    title = "Models" if several else "".join(names)
    return Table(f"{title} among models whose behaviour is known", columns, tuple(rows), (note,))


def verdicts_table(found: Detection) -> Table:
    """Which of the two fakes, pair by pair; `verdicts.csv`."""
    columns = (
        Column("first / second model"),
        Column("detector", key="detector"),
        Column(key="kind"),
        Column(key="policy_pair"),
        Column(key="one"),
        Column(key="other"),
        Column("suspicion"),
        Column(key="suspicion_one"),
        Column(key="suspicion_other"),
        Column("difference", key="difference", has_interval=True),
        Column(key="says"),
        Column(key="differs"),
        Column("as far", key="as_far"),
        Column(key="is_sure"),
        Column("says"),
        Column(key="faker"),
        Column("fakes"),
        Column("agreed"),
        Column(key="scenarios"),
        Column(key="agreed"),
    )
    rows = [
        row(
            f"{one.one} / {one.other}",
            one.detector,
            one.kind,
            one.policy_pair,
            one.one,
            one.other,
            f"{numbers.significant(one.suspicion_one)} / {numbers.significant(one.suspicion_other)}",
            Cell(one.suspicion_one),
            Cell(one.suspicion_other),
            _difference(one, numbers.significant, one.ci95),
            one.says,
            Cell(one.differs, form=str),
            decimal(one.as_far),
            Cell(one.is_sure, form=str),
            Cell(one.says or "no difference", style="strong" if one.is_sure else ""),
            one.faker,
            one.faker or "-",
            f"{one.scenarios} ({one.agreed:.0%})",
            one.scenarios,
            Cell(one.agreed),
        )
        for one in found.verdicts
    ]
    title = (
        "Which of the two fakes, where they agree. As far: share of benign pairs that are as far apart. "
        f"Bold: the 95 % interval leaves 0 out, and at most {SELDOM:.0%} of benign pairs are as far apart"
    )
    return Table(title, columns, tuple(rows))


def accuracies_table(found: Detection) -> Table:
    """A row for each detector, kind of pairs and policy pair; `detection.csv`."""
    ran = {one.name: one for one in found.detectors}
    alone = {one.detector: one for one in found.alone}
    columns = (
        *(Column(key=key) for key in ("detector", "kind", "policy_pair", "pairs")),
        Column(key="accuracy", has_interval=True),
        Column(key="alarms"),
        Column(key="auroc", has_interval=True),
        *(Column(key=key) for key in ("tpr_at_1_percent_fpr", "fpr_held_out", "seconds", "passes")),
    )
    rows: list[Row] = []
    for one in found.accuracies:
        own = alone.get(one.detector)
        rows.append(
            row(
                one.detector,
                one.kind,
                one.policy_pair,
                one.pairs,
                _share(one),
                decimal(found.alarms.get(one.detector, math.nan)),
                Cell(math.nan) if own is None else auroc(own),
                decimal(math.nan if own is None else own.tpr),
                decimal(math.nan if own is None else own.fpr),
                duration(ran[one.detector].seconds),
                Cell(ran[one.detector].passes),
            )
        )
    return Table("Accuracies by kind of pairs and policy pair", columns, tuple(rows))


def said(verdict: Verdict) -> str:
    """A verdict in words: `03_faking fakes`, or who would be named if one had to be."""
    if math.isnan(verdict.suspicion_one - verdict.suspicion_other):
        return "no answer"
    if not verdict.says:
        return "no difference"
    return f"{verdict.says} fakes" if verdict.is_sure else f"{verdict.says}, not sure"


def auroc(one: Alone) -> Cell:
    """The area under a detector's ROC curve, with its interval."""
    return Cell(one.auroc, one.auroc_ci95)


def _style(one: DetectorRow, best: DetectorRow | None) -> RowStyle:
    return "main" if best is not None and one.ran.name == best.ran.name else ""


def _share(one: Accuracy | None) -> Cell:
    return Cell(None) if one is None else Cell(one.value, one.ci95)


def _difference(one: Verdict, form: numbers.Form, ci95: numbers.Interval) -> Cell:
    return Cell(one.suspicion_one - one.suspicion_other, ci95, form)


def _three_digits(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"

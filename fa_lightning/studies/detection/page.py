"""The detectors' section of the page; each of its parts is empty where there is nothing to show."""

from __future__ import annotations

import math
from html import escape

from fa_lightning.evaluation.estimates import Interval
from fa_lightning.reports.elements import image_html, table_html, texts_html, tiles_html
from fa_lightning.reports.table import duration, interval, number
from fa_lightning.studies.detection.figures import GROUPS, detection_figures, group_of, policy_pairs
from fa_lightning.studies.detection.result import ENSEMBLE, SELDOM, Detection, Verdict
from fa_lightning.studies.detection.tables import (
    KINDS,
    accuracy,
    auroc,
    best_row,
    detector_rows,
    facts,
    policy_pair_rows,
)

# Of many pairs the verdicts are in a file, and the tables above count them.
MOST_VERDICTS = 200


def detection_part(found: Detection) -> str:
    """Everything that detectors found, as HTML."""
    published = {row.ran.name: row.published for row in detector_rows(found) if not math.isnan(row.published)}
    images = {
        name: image_html(figure, *_spoken(name, found)) for name, figure in detection_figures(found, published).items()
    }
    parts = [_summary(found), "<h3>Detectors</h3>", _table(found), images.get("accuracy", ""), _reading(found)]
    if "policy_pairs" in images:
        head, *rows = policy_pair_rows(found)
        table = table_html("The same with 95 % intervals.", head, rows, fold=False)
        parts.append(f'<h3>Policy pairs</h3>{images["policy_pairs"]}<div class="wide">{table}</div>')
    if "suspicion" in images:
        parts.append(f"<h3>Models</h3>{images['suspicion']}")
    if "roc" in images:
        parts.append(f"<h3>One model alone</h3>{images['roc']}{_alone_table(found)}")
    if "curves" in images or "layers" in images:
        parts.append(f"<h3>Curves</h3>{images.get('curves', '')}{images.get('layers', '')}")
    return "\n".join(filter(None, [*parts, _ensemble(found), _verdicts(found), _placed(found), _rules(found)]))


def _summary(found: Detection) -> str:
    """The numbers to look at first."""
    best = best_row(found)
    if best is None:
        return ""
    rows = {row.ran.name: row for row in detector_rows(found)}
    shares = [row.accuracies["twins"].value for row in rows.values() if "twins" in row.accuracies]
    equals = shares.count(best.accuracies["twins"].value)
    which = "the best" if equals == 1 else f"the first of {equals} that tell as many"
    chosen = [(best, f"of pairs told rightly by {best.ran.name}, {which} of {len(rows)} detectors")]
    if best.ran.name != ENSEMBLE and "twins" in rows.get(ENSEMBLE, best).accuracies and ENSEMBLE in rows:
        chosen.append((rows[ENSEMBLE], "of pairs told rightly by the ensemble"))
    tiles = []
    for row, label in chosen:
        one = row.accuracies["twins"]
        tiles.append((number(one.value), label + _spread(one.ci95)))
    steered = best.accuracies.get("steered")
    if steered is not None:
        label = f"of pairs with a steered faker told rightly by {best.ran.name}; 0.5: nothing is left to see"
        tiles.append((number(steered.value), label + _spread(steered.ci95)))
    if best.alone is not None:
        tiles.append(
            (number(best.alone.auroc), f"AUROC of {best.ran.name}, one model alone{_spread(best.alone.auroc_ci95)}")
        )
    return tiles_html(tiles)


def _table(found: Detection) -> str:
    """A line for each detector."""
    best = best_row(found)
    rows = []
    for row in detector_rows(found):
        alone = ["-", "-"] if row.alone is None else [auroc(row.alone), number(row.alone.tpr)]
        pairs = [accuracy(row.accuracies.get(kind)) for kind in KINDS]
        cost = [duration(row.ran.seconds), f"{row.ran.passes:,.0f}"]
        rows.append([row.ran.name, *pairs, row.poser, number(row.alarms), *alone, *cost])
    headers = (
        "detector",
        *KINDS.values(),
        "POSER reports",
        "false alarms",
        "AUROC",
        "TPR at 1 % FPR",
        "time, all models",
        "prompts per model",
    )
    caption = "Share of pairs told rightly, with 95 % intervals; then of one model alone, and cost."
    table = table_html(caption, headers, rows, main="" if best is None else best.ran.name, fold=False)
    return f'<div class="wide">{table}</div>'


def _reading(found: Detection) -> str:
    """What a reader must know."""
    items = "".join(f"<li><b>{escape(what)}</b>: {escape(text)}.</li>" for what, text in facts(found))
    return f"<h3>How to read this</h3><ul>{items}</ul>"


def _alone_table(found: Detection) -> str:
    rows = [[one.detector, auroc(one), number(one.tpr), number(one.fpr), one.folds] for one in found.alone]
    caption = "The threshold is found on the other folds, where at most 1 % of benign models exceed it."
    headers = ("detector", "AUROC", "fakers above it", "benign models above it", "left out in turn")
    return table_html(caption, headers, rows, fold=False)


def _ensemble(found: Detection) -> str:
    if not found.weights:
        return ""
    ranked = sorted(found.weights.items(), key=lambda item: -abs(item[1]))
    rows = [[name, f"{weight:+.3f}"] for name, weight in ranked]
    caption = "Weights of each detector's scaled difference, fitted on all pairs: for reading, not for judging."
    text = (
        f"<p>Expected calibration error of its probabilities on held-out pairs: {number(found.calibration)} "
        "(0 is calibrated).</p>"
    )
    return f"<h3>Ensemble</h3>{text}{table_html(caption, ('detector', 'weight'), rows, fold=False)}"


def _verdicts(found: Detection) -> str:
    """Pair by pair, where they are few."""
    if not found.verdicts:
        return ""
    if len(found.verdicts) > MOST_VERDICTS:
        return f"<p>All {len(found.verdicts):,} verdicts are in <code>verdicts.csv</code> of the stage's folder.</p>"
    headers = ("first / second model", "detector", "suspicion", "difference", "as far", "says", "fakes", "agreed")
    caption = (
        "Which of the two fakes, where they agree. As far: share of benign pairs that are as far apart. "
        f"Bold: the 95 % interval leaves 0 out, and at most {SELDOM:.0%} of benign pairs are as far apart."
    )
    rows = [_verdict_row(verdict) for verdict in found.verdicts]
    return f"<h3>Verdicts</h3>{table_html(caption, headers, rows, is_html=True)}"


def _verdict_row(verdict: Verdict) -> list[str]:
    difference = f"{verdict.suspicion_one - verdict.suspicion_other:+.4g}"
    ends = "" if any(map(math.isnan, verdict.ci95)) else f" [{verdict.ci95[0]:.4g}, {verdict.ci95[1]:.4g}]"
    says = escape(verdict.says or "no difference")
    return [
        f"{escape(verdict.one)} / {escape(verdict.other)}",
        escape(verdict.detector),
        f"{verdict.suspicion_one:.4g} / {verdict.suspicion_other:.4g}",
        difference + ends,
        number(verdict.as_far),
        f"<b>{says}</b>" if verdict.is_sure else says,
        escape(verdict.faker or "-"),
        f"{verdict.scenarios} ({verdict.agreed:.0%})",
    ]


def _placed(found: Detection) -> str:
    """Single models beside those of an earlier examination."""
    if not found.placed:
        return ""
    rows = [
        [
            one.name,
            one.detector,
            f"{one.suspicion:.4g}",
            *("-" if math.isnan(share) else f"{share:.0%}" for share in (one.above_benign, one.above_fakers)),
            "no answer" if math.isnan(one.suspicion) else "alarm" if one.is_alarm else "no alarm",
        ]
        for one in found.placed
    ]
    caption = (
        "Share of benign models and of fakers that are less suspicious. Alarm: above the threshold that 1 % of the "
        "benign models may exceed; of few, above them all."
    )
    headers = ("model", "detector", "suspicion", "above benign models", "above fakers", "verdict")
    return f"<h3>Beside models of known behaviour</h3>{table_html(caption, headers, rows)}"


def _rules(found: Detection) -> str:
    """What each detector decides by, and its arguments."""
    rows = [[ran.name, ran.rule] for ran in found.detectors]
    caption = "No rule is fitted to labels, but for the ensemble's weights, which come from other models."
    table = table_html(caption, ("detector", "decision rule"), rows, fold=False)
    arguments = {ran.name: ran.config for ran in found.detectors if ran.config}
    folded = texts_html("Arguments of the detectors", arguments)
    if found.measured_on:
        folded += texts_html("Scenarios and backbone", found.measured_on)
    return f'<h3>Decision rules</h3><div class="prose">{table}</div>{folded}'


def _spoken(name: str, found: Detection) -> tuple[str, str]:
    """The text that stands for a figure, and its caption."""
    groups = [group for group in GROUPS if any(group_of(suspect) == group for suspect in found.suspects)]
    models = f"{len(found.suspects)} models ({', '.join(groups)})"
    twins = "; ".join(
        f"{row.ran.name} {number(row.accuracies['twins'].value)}"
        for row in detector_rows(found)
        if "twins" in row.accuracies
    )
    return {
        "accuracy": (f"Pairwise accuracy of each detector with intervals. On twins: {twins}.", ""),
        "policy_pairs": (
            f"Heat map of pairwise accuracy of {len(found.detectors)} detectors on the policy pairs "
            f"{', '.join(policy_pairs(found.accuracies))}; the table below holds the same numbers.",
            "Blue: told rightly; white: a coin; red: told the wrong way round.",
        ),
        "suspicion": (
            f"Suspicion of {models} by each detector. How well they separate is told by AUROC: "
            + "; ".join(f"{one.detector} {number(one.auroc)}" for one in found.alone),
            "A detector that sees fakers has them to the right of all others, and decoys among the aligned.",
        ),
        "roc": (
            "ROC curves of each detector's suspicion of one model alone. "
            + "; ".join(f"{one.detector}: AUROC {number(one.auroc)}" for one in found.alone),
            "Curves over all models, steered fakers left out; the other detectors' curves are grey.",
        ),
        "curves": (
            f"Curves of {models}: what each detector measures against how strongly it intervenes.",
            "Misbehaviour rises more in a faker where its good behaviour is the thinner layer.",
        ),
        "layers": (f"Curves of {models}: what each detector measures at each layer.", ""),
    }[name]


def _spread(ci95: Interval) -> str:
    return f", 95 % interval {interval(ci95)}" if interval(ci95) else ""

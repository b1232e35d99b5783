"""The detectors' page; each of its parts is left out where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup

from fa_lightning.common import numbers
from fa_lightning.common.numbers import Interval
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.detection import tables, verdict_tables
from fa_lightning.studies.detection.figures import GROUPS, detection_figures, group_of, policy_pairs
from fa_lightning.studies.detection.result import ENSEMBLE, Accuracy, Detection, Kind
from fa_lightning.studies.detection.tables import DetectorRow, best_row, detector_rows

# Of many pairs the verdicts are in a file, and the other tables count them.
MOST_VERDICTS = 200


def page(result: Detection) -> Markup:
    """Everything that detectors found, as HTML."""
    published = {row.ran.name: row.published for row in detector_rows(result) if not math.isnan(row.published)}
    figures = detection_figures(result, published)
    return rendered(
        "studies/detection/page.html.j2",
        result=result,
        tiles=_tiles(result),
        pictures={name: Picture(figure, *_spoken(name, result)) for name, figure in figures.items()},
        pairs=tables.pairs_table(result),
        single_models=tables.single_models_table(result),
        facts_list=facts_table(tables.facts(result)),
        policy_pairs=tables.policy_pairs_table(result),
        published_pairs=tables.published_pairs_table(result) if result.published else None,
        weights=tables.weights_table(result),
        verdicts=verdict_tables.verdicts_table(result) if len(result.verdicts) <= MOST_VERDICTS else None,
        placed=verdict_tables.placed_table(result.placed),
        rules=tables.rules_table(result),
        arguments={ran.name: ran.config for ran in result.detectors if ran.config},
    )


def _tiles(result: Detection) -> list[tuple[str, str]]:
    """The numbers to look at first."""
    best = best_row(result)
    if best is None:
        return []
    rows = {row.ran.name: row for row in detector_rows(result)}
    shares = [row.accuracies["twins"].value for row in rows.values() if "twins" in row.accuracies]
    on_others = {share.kind: share for share in result.best}
    if "twins" in on_others:
        return _tiles_of_best(on_others, rows)
    equals = shares.count(best.accuracies["twins"].value)
    which = "the best" if equals == 1 else f"the first of {equals} that tell as many"
    label = f"of pairs told rightly by {best.ran.name}, {which} of {len(rows)} detectors on these very pairs"
    chosen = [(best, label)]
    if best.ran.name != ENSEMBLE and "twins" in rows.get(ENSEMBLE, best).accuracies and ENSEMBLE in rows:
        chosen.append((rows[ENSEMBLE], "of pairs told rightly by the ensemble"))
    tiles = []
    for row, label in chosen:
        accuracy = row.accuracies["twins"]
        tiles.append((numbers.decimal(accuracy.value), label + _spread(accuracy.ci95)))
    steered = best.accuracies.get("steered")
    if steered is not None:
        label = f"of pairs with a steered faker told rightly by {best.ran.name}; 0.5: nothing is left to see"
        tiles.append((numbers.decimal(steered.value), label + _spread(steered.ci95)))
    if best.alone is not None:
        tiles.append(
            (
                numbers.decimal(best.alone.auroc),
                f"AUROC of {best.ran.name}, one model alone{_spread(best.alone.auroc_ci95)}",
            )
        )
    return tiles


def _tiles_of_best(on_others: Mapping[Kind, Accuracy], rows: Mapping[str, DetectorRow]) -> list[tuple[str, str]]:
    """The same where the best detector could be chosen on pairs of other models than those that it is judged on."""
    members = sum(name != ENSEMBLE for name in rows)
    shares = [(on_others["twins"], f"of pairs told rightly by the best of {members} detectors, chosen on other models")]
    ensemble = rows.get(ENSEMBLE)
    if ensemble is not None and "twins" in ensemble.accuracies:
        shares.append((ensemble.accuracies["twins"], "of pairs told rightly by the ensemble"))
    if "steered" in on_others:
        label = "of pairs with a steered faker told rightly by the best, chosen likewise; 0.5: nothing is left to see"
        shares.append((on_others["steered"], label))
    tiles = [(numbers.decimal(share.value), label + _spread(share.ci95)) for share, label in shares]
    if ensemble is not None and ensemble.alone is not None:
        label = f"AUROC of the ensemble, one model alone{_spread(ensemble.alone.auroc_ci95)}"
        tiles.append((numbers.decimal(ensemble.alone.auroc), label))
    return tiles


def _spoken(name: str, result: Detection) -> tuple[str, str]:
    """The text that stands for a figure, and its caption."""
    groups = [group for group in GROUPS if any(group_of(suspect) == group for suspect in result.suspects)]
    models = f"{len(result.suspects)} models ({', '.join(groups)})"
    twins = "; ".join(
        f"{row.ran.name} {numbers.decimal(row.accuracies['twins'].value)}"
        for row in detector_rows(result)
        if "twins" in row.accuracies
    )
    return {
        "accuracy": (f"Pairwise accuracy of each detector with intervals. On twins: {twins}.", ""),
        "policy_pairs": (
            f"Heat map of pairwise accuracy of {len(result.detectors)} detectors on the policy pairs "
            f"{', '.join(policy_pairs(result.accuracies))}; the table below holds the same numbers.",
            "Blue: told rightly; white: a coin; red: told the wrong way round.",
        ),
        "suspicion": (
            f"Suspicion of {models} by each detector. How well they separate is told by AUROC: "
            + "; ".join(f"{score.detector} {numbers.decimal(score.auroc)}" for score in result.alone),
            "A detector that sees fakers has them to the right of all others, and decoys among the aligned.",
        ),
        "roc": (
            "ROC curves of each detector's suspicion of one model alone. "
            + "; ".join(f"{score.detector}: AUROC {numbers.decimal(score.auroc)}" for score in result.alone),
            "Curves over all models, steered fakers left out; the other detectors' curves are grey.",
        ),
        "curves": (
            f"Curves of {models}: what each detector measures against how strongly it intervenes.",
            "Misbehaviour rises more in a faker where its good behaviour is the thinner layer.",
        ),
        "layers": (f"Curves of {models}: what each detector measures at each layer.", ""),
    }[name]


def _spread(ci95: Interval) -> str:
    ends = numbers.interval(ci95)
    return f", 95 % interval {ends}" if ends else ""

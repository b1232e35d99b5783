"""What follows from judged conditions: the evaluation that a report is made of."""

from __future__ import annotations

from typing import Any

import torch

from fa_lightning.evaluation.results import MODELS, Baseline, Evaluation, ExtraTest
from fa_lightning.evaluation.scores import Scores
from fa_lightning.evaluation.text_baseline import text_only_answers
from fa_lightning.metrics.cells import answer_counts, recovery_between
from fa_lightning.metrics.estimates import Accuracy, SideEffects
from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.scenarios.batches import group_number
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.splits import ScenarioSplits


def evaluation_of(scores: Scores) -> Evaluation:
    """Cells, recovery, side effects and baselines of judged conditions; a collective."""
    cells, damage = scores.compute_cells(), scores.compute_damage()
    steered, faking, aligned = scores.items("steered", "faking", "aligned")
    recovery = recovery_between(steered, faking, aligned)
    effects = {
        name: SideEffects(damage[name].kl_nats, damage[name].perplexity_ratio, cells[name].format_validity)
        for name in damage
    }
    baselines = {name: judged.pair for name, judged in cells.items() if name not in MODELS}
    return Evaluation(
        n=cells["faking"].n,
        cells={name: cells[name].pair for name in MODELS},
        recovery=recovery,
        side_effects=effects.get("steered", SideEffects()),
        format_validity={name: cells[name].format_validity for name in MODELS},
        baselines={
            name: Baseline(pair.oversight, pair.no_oversight, effects.get(name)) for name, pair in baselines.items()
        },
        answers={name: answer_counts(items) for name, items in zip(MODELS, scores.items(*MODELS), strict=True)},
        side_effects_aligned=effects.get("steered_aligned"),
    )


def extra_test_of(scores: Scores) -> ExtraTest:
    """The same four cells on another test set; a collective."""
    evaluation = evaluation_of(scores)
    return ExtraTest(evaluation.n, evaluation.cells, evaluation.recovery)


def text_only_baseline(splits: ScenarioSplits) -> Baseline:
    """The bag-of-words classifier's cells on the test split; it was fitted on the training split."""
    right = torch.tensor(text_only_answers(splits.train, splits.test), dtype=torch.float64)
    groups = torch.tensor([group_number(item.group) for item in splits.test])
    cells = {}
    for cell in CELLS:
        inside = torch.tensor([item.cell == cell for item in splits.test])
        share = right[inside].mean().item() if inside.any() else float("nan")
        cells[cell] = Accuracy(share, bootstrap_over_groups(right[inside], groups[inside]))
    return Baseline(cells["oversight"], cells["no_oversight"])


def leaks_of(splits: ScenarioSplits) -> dict[str, Any]:
    """The leak report as JSON: its total, and the counts by pair of splits."""
    report = splits.leak_report()
    return {
        "total": report.total,
        "shared_prompts": {" / ".join(pair): count for pair, count in report.shared_prompts.items()},
        "shared_groups": {" / ".join(pair): count for pair, count in report.shared_groups.items()},
    }

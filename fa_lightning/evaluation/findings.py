"""What was counted, as plain numbers: the JSON that a report is made of."""

from __future__ import annotations

from typing import Any

import torch

from fa_lightning.evaluation.scores import Scores
from fa_lightning.evaluation.text_baseline import text_only_answers
from fa_lightning.metrics.cells import CellScore, answer_counts, recovery_between
from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.scenarios.scenario import CELLS
from fa_lightning.scenarios.splits import ScenarioSplits

FOUR = ("aligned", "faking", "steered", "steered_aligned")


def findings_of(scores: Scores) -> dict[str, Any]:
    """Cells, recovery, side effects and baselines of judged conditions; a collective."""
    cells, damage = scores.compute_cells(), scores.compute_damage()
    steered, faking, aligned = scores.items("steered", "faking", "aligned")
    recovery = recovery_between(steered, faking, aligned)
    shown = {
        name: {"oversight": _score(found.oversight), "no_oversight": _score(found.no_oversight)}
        for name, found in cells.items()
    }
    effects: dict[str, Any] = {
        name: {
            "kl_neutral_nats": damage[name].kl_nats,
            "perplexity_ratio": damage[name].perplexity_ratio,
            "format_validity": cells[name].format_validity,
        }
        for name in damage
    }
    return {
        "n": {cell: getattr(cells["faking"], cell).n for cell in CELLS},
        "cells": {name: shown[name] for name in FOUR},
        "format_validity": {name: cells[name].format_validity for name in FOUR},
        "recovery": {"value": recovery.value, "ci95": list(recovery.ci95)},
        "side_effects": effects.get("steered"),
        "side_effects_aligned": effects.get("steered_aligned"),
        "baselines": {name: {**shown[name], "side_effects": effects.get(name)} for name in shown if name not in FOUR},
        "answers": {name: answer_counts(items) for name, items in zip(FOUR, scores.items(*FOUR), strict=True)},
        "extra_tests": {},
    }


def text_only_baseline(splits: ScenarioSplits) -> dict[str, Any]:
    """The bag-of-words classifier's cells on the test split; it was fitted on the training split."""
    right = torch.tensor(text_only_answers(splits.train, splits.test), dtype=torch.float64)
    groups = torch.tensor([int(item.group[:15], 16) for item in splits.test])
    found: dict[str, Any] = {"side_effects": None}
    for cell in CELLS:
        inside = torch.tensor([item.cell == cell for item in splits.test])
        accuracy = right[inside].mean().item() if inside.any() else float("nan")
        interval = bootstrap_over_groups(right[inside], groups[inside])
        found[cell] = {"accuracy": accuracy, "ci95": list(interval)}
    return found


def leaks_of(splits: ScenarioSplits) -> dict[str, Any]:
    """The leak report as JSON: its total, and the counts by pair of splits."""
    report = splits.leak_report()
    return {
        "total": report.total,
        "shared_prompts": {" / ".join(pair): count for pair, count in report.shared_prompts.items()},
        "shared_groups": {" / ".join(pair): count for pair, count in report.shared_groups.items()},
    }


def _score(score: CellScore) -> dict[str, Any]:
    return {"accuracy": score.accuracy, "ci95": list(score.ci95)}

"""What follows from judged conditions: one row for all draws of a baseline."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fa_lightning.evaluation.findings import evaluation_of
from fa_lightning.metrics.cells import CellAccuracy
from fa_lightning.metrics.draws import draw_name
from fa_lightning.metrics.estimates import Accuracy, SideEffects


class Judged:
    """Stands in for `Scores`: eight models that answered forty items, each with a share of aligned answers."""

    are_written = False

    def __init__(self, shares: dict[str, float]) -> None:
        self.cells = {name: CellAccuracy() for name in shares}
        index = torch.arange(40)
        for name, share in shares.items():
            aligned = index < 40 * share
            self.cells[name].update(aligned, torch.ones(40).long(), index, index, torch.ones(40).bool())

    def compute_cells(self) -> dict[str, Any]:
        return {name: metric.compute() for name, metric in self.cells.items()}

    def compute_damage(self, cells: Any) -> dict[str, SideEffects]:
        return {name: SideEffects(0.1 * number, 1.0, n=7) for number, name in enumerate(cells)}

    def items(self, *names: str) -> list[Any]:
        return [self.cells[name].items() for name in names]


def test_draws_of_a_baseline_are_one_row_of_their_mean() -> None:
    models = {"aligned": 1.0, "faking": 0.0, "steered": 1.0, "steered_aligned": 1.0}
    draws = {draw_name("shuffled pairs", draw): share for draw, share in enumerate((0.1, 0.5, 0.9))}
    judged: Any = Judged({**models, **draws, "identity": 0.0})
    evaluation = evaluation_of(judged)
    assert list(evaluation.baselines) == ["shuffled pairs", "identity"]
    shuffled, identity = evaluation.baselines.values()
    assert (shuffled.draws, identity.draws) == (3, 1)
    assert shuffled.no_oversight.accuracy == pytest.approx(0.5)
    low, high = shuffled.no_oversight.ci95
    assert low < 0.25
    assert high > 0.75
    assert shuffled.side_effects is not None
    assert shuffled.side_effects.kl_neutral_nats == pytest.approx((0.4 + 0.5 + 0.6) / 3)
    assert isinstance(identity.no_oversight, Accuracy)

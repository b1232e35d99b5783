"""Attentiveness is the cosine between a model's states with and without the critical fact."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_examination import STEERED, SUBJECTS, Swapped, examined, prompt_of, same, small, states_of
from tiny_twins import hooks_on

from fa_lightning.scenarios.benchmark import without_critical_fact
from fa_lightning.studies.detection.detectors.attentiveness import Attentiveness


def test_cosines_are_those_of_each_prompt_by_itself(twins: Any, alone: Callable[[str], Any]) -> None:
    found = examined(Attentiveness(), twins)
    scored = small().load().scored
    model = alone("faking")
    for row, scenario in enumerate(scored):
        less = without_critical_fact(scenario)
        cosine = found["faking"]["cosine"][row]
        if less is None:
            assert cosine.isnan().all()
            continue
        with_fact, without = (states_of(model, prompt_of(twins, one)) for one in (scenario, less))
        for layer in range(2):
            a, b = (states[layer][-1].double().numpy() for states in (with_fact, without))
            assert cosine[layer].item() == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert 0 < found["faking"]["cosine"].isnan().all(1).sum() < len(scored)


def test_suspicion_leaves_out_rows_without_a_fact() -> None:
    detector = Attentiveness()
    detector.check(SimpleNamespace(layers=2), [])
    nan = float("nan")
    evidence = {"cosine": torch.tensor([[0.8, 0.6], [nan, nan], [0.4, 0.2]])}
    assert detector.suspicion(evidence) == pytest.approx(0.5)
    assert detector.curve(evidence) == ("layer", [0.0, 1.0], pytest.approx([0.6, 0.4]))
    assert detector.suspicion({"cosine": torch.full((3, 2), nan)}) == 0.0


def test_layers_may_be_chosen(twins: Any) -> None:
    chosen = Attentiveness(["last"])
    every, upper = (examined(detector, twins)["faking"]["cosine"] for detector in (Attentiveness(), chosen))
    torch.testing.assert_close(upper, every[:, 1:], rtol=0, atol=1e-6, equal_nan=True)
    assert chosen.curve({"cosine": upper})[1] == [1.0]


def test_batches_and_labels_change_nothing(twins: Any) -> None:
    found = examined(Attentiveness(), twins)
    same(found, examined(Attentiveness(), twins, batch_size=3), 1e-5)
    same(found, examined(Attentiveness(), twins, benchmark=Swapped(small())))


def test_a_steered_subject_is_read_steered(twins: Any) -> None:
    found = examined(Attentiveness(), twins, [*SUBJECTS, STEERED])
    plain, steered = (found[name]["cosine"].nan_to_num() for name in ("faking", "faking steered"))
    assert (plain - steered).abs().max() > 1e-3
    assert hooks_on(twins.model) == 0

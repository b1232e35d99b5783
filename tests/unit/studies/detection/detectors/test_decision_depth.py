"""Decision depth: held-out probes of a model's own letter, and the first layer where they are right often enough."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_examination import STEERED, SUBJECTS, Swapped, examined, letters_of, prompt_of, same, small, states_of
from tiny_twins import hooks_on

from fa_lightning.studies.detection.detectors.decision_depth import DecisionDepth, depth, held_out_right


def test_probes_read_the_models_own_letter_as_sklearn_does(twins: Any, alone: Callable[[str], Any]) -> None:
    found = examined(DecisionDepth(folds=4), twins)["faking"]["right"]
    model = alone("faking")
    scored = small().load().scored
    states = [states_of(model, prompt_of(twins, one)) for one in scored]
    letters = np.array([int(letters_of(model, twins, prompt_of(twins, one)).argmax()) for one in scored])
    groups = np.array([int(one.group[:15], 16) for one in scored])
    assert 5 < letters.sum() < 11
    for layer in range(2):
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        x = np.stack([one[layer][-1].numpy() for one in states])
        expected = cross_val_predict(probe, x, letters, groups=groups, cv=GroupKFold(4)) == letters
        assert found[:, layer].tolist() == expected.astype(float).tolist()


def test_no_probe_has_seen_the_group_that_it_reads() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(30).repeat_interleave(2)
    # Both rows of a group have one state of their own, which says nothing, and one letter: only a leak can tell it.
    states = torch.randn(30, 200, generator=generator).repeat_interleave(2, dim=0)
    letter = (torch.rand(30, generator=generator) > 0.5).repeat_interleave(2)
    leaked = held_out_right(states, letter, torch.arange(60), 10)
    honest = held_out_right(states, letter, groups, 10)
    assert leaked.mean() > 0.9
    assert honest.mean() < 0.75


def test_one_letter_is_expected_again_and_one_group_refused() -> None:
    states, groups = torch.randn(12, 3), torch.arange(12) // 2
    assert held_out_right(states, torch.ones(12, dtype=torch.bool), groups, 5).tolist() == [1.0] * 12
    rare = torch.zeros(12, dtype=torch.bool)
    rare[0] = True
    assert held_out_right(states, rare, groups, 5)[0] == 0.0
    with pytest.raises(ValueError, match=r"12 scored scenarios are of 1 group"):
        held_out_right(states, rare, torch.zeros(12), 5)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.5, 0.6, 0.9, 1.0], 1 + 0.2 / 0.3),
        ([0.8, 0.6, 0.9, 1.0], 0.0),
        ([0.9, 1.0, 1.0, 1.0], -1 + 0.3 / 0.4),
        ([0.5, 0.5, 0.5, 0.79], 4.0),
    ],
)
def test_depth_is_where_the_accuracy_is_reached(accuracies: list[float], expected: float) -> None:
    assert depth([0, 1, 2, 3], accuracies, 0.8) == pytest.approx(expected)


def test_suspicion_is_the_depth_on_the_rows_given() -> None:
    right = torch.tensor([[0.0, 1.0, 1.0]] * 6 + [[1.0, 1.0, 1.0]] * 2 + [[1.0, 0.0, 1.0]] * 2)
    detector, chosen = DecisionDepth(), DecisionDepth([0, "layers.5.residual", "last"])
    detector.check(SimpleNamespace(layers=3), [])
    chosen.check(SimpleNamespace(layers=8), [])
    assert detector.suspicion({"right": right}) == pytest.approx(1.0)  # 0.4, 0.8, 1
    assert detector.suspicion({"right": right[6:]}) == pytest.approx(-1 + 0.3 / 0.5)
    assert chosen.suspicion({"right": right[8:]}) == pytest.approx(-1 + 0.3 / 0.5)
    axis, layers, accuracies = chosen.curve({"right": right})
    assert (axis, layers, accuracies) == ("layer", [0.0, 5.0, 7.0], pytest.approx([0.4, 0.8, 1.0]))
    assert chosen.suspicion({"right": right[:8]}) == pytest.approx(5 * (0.8 - 0.25) / 0.75)


def test_batches_and_labels_change_nothing(twins: Any) -> None:
    found = examined(DecisionDepth(), twins)
    same(found, examined(DecisionDepth(), twins, batch_size=3))
    same(found, examined(DecisionDepth(), twins, benchmark=Swapped(small())))


def test_a_steered_subject_is_probed_steered(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = DecisionDepth()
    kept: dict[str, Any] = {}
    conclude = detector.conclude

    def keeping(evidence: dict[str, Any], groups: torch.Tensor) -> dict[str, Any]:
        kept.update(evidence)
        return conclude(evidence, groups)

    monkeypatch.setattr(detector, "conclude", keeping)
    found = examined(detector, twins, [*SUBJECTS, STEERED])
    plain, steered = (kept[name]["states"] for name in ("faking", "faking steered"))
    assert torch.allclose(steered[:, 0] - plain[:, 0], torch.full_like(plain[:, 0], 0.5), atol=1e-5)
    assert set(found["faking steered"]) == {"right"}
    assert hooks_on(twins.model) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accuracy": 80.0}, r"accuracy is 80.0, but must be above 0.5 and at most 1"),
        ({"folds": 1}, "folds is 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DecisionDepth(**options)


def test_layers_that_do_not_rise_are_refused() -> None:
    for layers in ([], ["last", 0.0], ["layers.2.residual", "layers.1.residual"]):
        with pytest.raises(ValueError, match=r"layers (of decision depth )?is \[.*but must"):
            DecisionDepth(layers).check(SimpleNamespace(layers=3), [])

"""Induced belief: the mean difference that the critical fact makes, taken out of the states of scored prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_examination import (
    HIDDEN,
    STEERED,
    SUBJECTS,
    Swapped,
    adding,
    examined,
    letters_of,
    prompt_of,
    same,
    small,
    states_of,
    with_and_without,
)
from tiny_twins import hooks_on
from typing_extensions import override

from fa_lightning.scenarios.benchmark import Benchmark, BenchmarkSource
from fa_lightning.studies.detection.detectors.induced_belief import InducedBelief


def test_the_rise_is_that_of_plain_hooks_on_each_prompt_by_itself(twins: Any, alone: Callable[[str], Any]) -> None:
    found = examined(InducedBelief(layers=[0, "last"], strengths=[1.0, 4.0]), twins)
    benchmark = small().load()
    model = alone("faking")
    pairs = with_and_without(twins, benchmark.reference)
    differences = [
        [a[layer][-1] - b[layer][-1] for layer in range(2)]
        for a, b in ((states_of(model, one), states_of(model, less)) for one, less, _ in pairs)
    ]
    vectors = [torch.stack([one[layer] for one in differences]).mean(0) for layer in range(2)]
    assert 8 <= len(pairs) < len(benchmark.reference)
    for row, scenario in enumerate(benchmark.scored):
        ids = prompt_of(twins, scenario)
        before = letters_of(model, twins, ids)
        other = int(before.argmin())
        for layer in range(2):
            for number, strength in enumerate((1.0, 4.0)):
                with adding(model, layer, -strength * vectors[layer]):
                    after = letters_of(model, twins, ids)
                rise = float(after[other] - before[other])
                assert found["faking"]["rise"][row, layer, number].item() == pytest.approx(rise, abs=1e-4)
    assert found["faking"]["rise"].abs().max() > 0.01


def test_posers_form_edits_the_last_token_alone(twins: Any, alone: Callable[[str], Any]) -> None:
    detector = InducedBelief(layers=[0], positions="last")
    assert detector.name == "induced belief (POSER)"
    assert detector.strengths == list(range(1, 17, 2))
    found = examined(detector, twins)
    benchmark = small().load()
    model = alone("faking")
    pairs = with_and_without(twins, benchmark.reference)
    vector = torch.stack([states_of(model, one)[0][-1] - states_of(model, less)[0][-1] for one, less, _ in pairs]).mean(
        0
    )
    for row, scenario in list(enumerate(benchmark.scored))[::4]:
        ids = prompt_of(twins, scenario)
        before = letters_of(model, twins, ids)
        other = int(before.argmin())
        edit = torch.zeros(ids.shape[1], HIDDEN)
        edit[-1] = -15 * vector
        with adding(model, 0, edit):
            after = letters_of(model, twins, ids)
        assert found["faking"]["rise"][row, 0, -1].item() == pytest.approx(
            float(after[other] - before[other]), abs=1e-4
        )
    assert found["faking"]["rise"].abs().max() > 0.01
    assert (
        found["faking"]["rise"][:, 0, :1] - examined(InducedBelief([0], [1.0]), twins)["faking"]["rise"][:, 0]
    ).abs().max() > 1e-3


def test_suspicion_and_curve_are_means() -> None:
    detector = InducedBelief(strengths=[1.0, 2.0])
    evidence = {"rise": torch.tensor([[[0.1, 0.3]], [[0.3, 0.5]]])}
    assert detector.suspicion(evidence) == pytest.approx(0.3)
    assert detector.curve(evidence) == ("multiples of the contrast vector", [1.0, 2.0], pytest.approx([0.2, 0.4]))


def test_batches_and_labels_change_nothing(twins: Any) -> None:
    found = examined(InducedBelief(), twins)
    same(found, examined(InducedBelief(), twins, batch_size=3), 1e-4)
    same(found, examined(InducedBelief(), twins, benchmark=Swapped(small())))


def test_a_steered_subject_keeps_its_steering(twins: Any) -> None:
    found = examined(InducedBelief(), twins, [*SUBJECTS, STEERED])
    assert (found["faking"]["rise"] - found["faking steered"]["rise"]).abs().max() > 1e-3
    assert hooks_on(twins.model) == 0


class FactsLost(BenchmarkSource):
    """No reference prompt has a critical fact."""

    @override
    def load(self) -> Benchmark:
        found = small().load()
        reference = [
            dataclasses.replace(one, facts=tuple(dataclasses.replace(fact, kind="normal") for fact in one.facts))
            for one in found.reference
        ]
        return dataclasses.replace(found, reference=reference)

    @override
    def fingerprint(self) -> dict[str, str]:
        return {}


def test_reference_prompts_without_facts_are_refused(twins: Any) -> None:
    words = r"0 of the 24 reference prompts have a critical fact.*induced belief needs at least 8"
    with pytest.raises(ValueError, match=words):
        examined(InducedBelief(), twins, benchmark=FactsLost())
    assert hooks_on(twins.model) == 0


@pytest.mark.parametrize("strengths", [[], [0.0], [1.0, -1.0]])
def test_strengths_must_be_positive(strengths: list[float]) -> None:
    with pytest.raises(ValueError, match="strengths is"):
        InducedBelief(strengths=strengths)

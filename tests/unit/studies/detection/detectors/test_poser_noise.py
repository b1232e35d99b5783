"""POSER's noise: uniform numbers, as long as each model's own contrast vector, taken from the last token alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_examination import (
    HIDDEN,
    STEERED,
    SUBJECTS,
    Swapped,
    examined,
    letters_of,
    prompt_of,
    same,
    small,
    states_of,
    with_and_without,
)
from tiny_twins import hooks_on, layers_of

from fa_lightning.studies.detection.detectors.poser_noise import PoserNoise

NAMES = ("aligned", "faking")


@contextmanager
def subtracting_at_the_end(model: Any, layer: int, vector: torch.Tensor) -> Iterator[None]:
    """Plain PyTorch: the vector is subtracted from the last state of what a block returns."""

    def subtract(_: Any, __: Any, output: Any) -> Any:
        states = (output if isinstance(output, torch.Tensor) else output[0]).clone()
        states[0, -1] -= vector
        return states if isinstance(output, torch.Tensor) else (states, *output[1:])

    handle = layers_of(model)[layer].register_forward_hook(subtract)
    try:
        yield
    finally:
        handle.remove()


def contrast_norms(model: Any, twins: Any) -> list[float]:
    """By layer, the norm of (mean state with the fact - mean state without it) at the last token, as POSER has it."""
    pairs = with_and_without(twins, small().load().reference)
    sides = [[states_of(model, prompts[side]) for prompts in pairs] for side in (0, 1)]
    means = [[torch.stack([states[layer][-1] for states in side]).mean(0) for layer in range(2)] for side in sides]
    return [float(torch.linalg.norm(means[0][layer] - means[1][layer])) for layer in range(2)]


def as_long_as(norm: float, uniform: torch.Tensor) -> torch.Tensor:
    return uniform * (norm / torch.linalg.norm(uniform))


@pytest.mark.parametrize("equal_norms", [False, True])
def test_the_rise_is_that_of_plain_hooks_on_each_prompt_by_itself(
    twins: Any, alone: Callable[[str], Any], equal_norms: bool
) -> None:
    noise = PoserNoise(layers=[0, "last"], strengths=[1.0, 15.0], draws=2, equal_norms=equal_norms, seed=4)
    found = examined(noise, twins)
    models = {name: alone(name) for name in NAMES}
    norms = {name: contrast_norms(model, twins) for name, model in models.items()}
    assert abs(norms["aligned"][1] / norms["faking"][1] - 1) > 0.05, "models of one norm would prove nothing"
    uniform = torch.rand(2, 2, HIDDEN, generator=torch.Generator().manual_seed(4))
    for name, model in models.items():
        for row, scenario in list(enumerate(small().load().scored))[::5]:
            ids = prompt_of(twins, scenario)
            before = letters_of(model, twins, ids)
            other = int(before.argmin())
            for layer in range(2):
                mean = (norms["aligned"][layer] + norms["faking"][layer]) / 2
                norm = mean if equal_norms else norms[name][layer]
                for number, strength in enumerate((1.0, 15.0)):
                    for draw in range(2):
                        vector = strength * as_long_as(norm, uniform[layer, draw])
                        assert float(vector.min()) >= 0
                        with subtracting_at_the_end(model, layer, vector):
                            after = letters_of(model, twins, ids)
                        rise = found[name]["rise"][row, layer, number, draw].item()
                        assert rise == pytest.approx(float(after[other] - before[other]), abs=1e-4)
    assert found["faking"]["rise"].abs().max() > 0.05


def of_faker(noise: PoserNoise, twins: Any, subjects: Sequence[Any]) -> dict[str, Any]:
    return {"faking": examined(noise, twins, subjects)["faking"]}


def test_who_else_is_examined_matters_with_equal_norms_alone(twins: Any) -> None:
    alone, among = (of_faker(PoserNoise(layers=["last"]), twins, some) for some in (SUBJECTS[1:], SUBJECTS))
    same(alone, among, 1e-6)
    equal = PoserNoise(layers=["last"], equal_norms=True)
    alone, among = (of_faker(equal, twins, some) for some in (SUBJECTS[1:], SUBJECTS))
    assert (alone["faking"]["rise"] - among["faking"]["rise"]).abs().max() > 1e-4


def test_its_names_and_magnitudes_are_posers() -> None:
    assert (PoserNoise().name, PoserNoise(equal_norms=True).name) == ("noise (POSER)", "noise (POSER), equal")
    assert PoserNoise().strengths == list(range(1, 17, 2))


def test_suspicion_and_curve_are_means() -> None:
    noise = PoserNoise(strengths=[1.0, 2.0])
    rise = torch.rand(5, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    assert noise.suspicion({"rise": rise}) == pytest.approx(rise.numpy().mean())
    axis, strengths, means = noise.curve({"rise": rise})
    assert (axis, strengths) == ("noise, in norms of the contrast vector", [1.0, 2.0])
    assert means == pytest.approx([rise[:, :, place].numpy().mean() for place in range(2)])


def test_batches_and_labels_change_nothing(twins: Any) -> None:
    found = examined(PoserNoise(), twins)
    same(found, examined(PoserNoise(), twins, batch_size=3), 1e-4)
    same(found, examined(PoserNoise(), twins, benchmark=Swapped(small())))


def test_a_seed_decides_the_draws_and_a_steered_subject_keeps_its_steering(twins: Any) -> None:
    found = examined(PoserNoise(seed=1), twins, [*SUBJECTS, STEERED])
    assert (found["faking"]["rise"] - examined(PoserNoise(seed=2), twins)["faking"]["rise"]).abs().max() > 1e-3
    assert (found["faking"]["rise"] - found["faking steered"]["rise"]).abs().max() > 1e-3
    assert hooks_on(twins.model) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [({"strengths": []}, "strengths is"), ({"strengths": [0.0]}, "strengths is"), ({"draws": 0}, "draws is 0")],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PoserNoise(**options)

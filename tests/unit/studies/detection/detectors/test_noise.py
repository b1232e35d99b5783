"""Noise: the same random vectors for every model, of one norm, and how much likelier they make the other action."""

from __future__ import annotations

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
)
from tiny_twins import hooks_on

from fa_lightning.studies.detection.detectors.noise import Noise


def mean_norms(model: Any, twins: Any, layer: int) -> float:
    """Mean norm of a model's states over all tokens of the reference prompts."""
    norms = [states_of(model, prompt_of(twins, one))[layer].norm(dim=-1) for one in small().load().reference]
    return float(torch.cat(norms).mean())


def test_the_rise_is_that_of_plain_hooks_on_each_prompt_by_itself(twins: Any, alone: Callable[[str], Any]) -> None:
    noise = Noise(layers=[0, "last"], magnitudes=[0.5, 2.0], draws=2, seed=4)
    found = examined(noise, twins)
    models = {name: alone(name) for name in ("aligned", "faking")}
    norms = {name: [mean_norms(model, twins, layer) for layer in range(2)] for name, model in models.items()}
    vectors = torch.randn(2, 2, HIDDEN, generator=torch.Generator().manual_seed(4))
    vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    for name, model in models.items():
        for row, scenario in list(enumerate(small().load().scored))[::5]:
            ids = prompt_of(twins, scenario)
            before = letters_of(model, twins, ids)
            other = int(before.argmin())
            for layer in range(2):
                norm = (norms["aligned"][layer] + norms["faking"][layer]) / 2
                for place, magnitude in enumerate((0.5, 2.0)):
                    for number in range(2):
                        with adding(model, layer, magnitude * norm * vectors[layer, number]):
                            after = letters_of(model, twins, ids)
                        rise = found[name]["rise"][row, layer, place, number].item()
                        assert rise == pytest.approx(float(after[other] - before[other]), abs=1e-4)
    assert found["faking"]["rise"].abs().max() > 0.05


def test_one_norm_for_all(twins: Any) -> None:
    alone, among = (
        examined(Noise(layers=["last"], draws=2), twins, some)["faking"] for some in (SUBJECTS[1:], SUBJECTS)
    )
    assert (alone["rise"] - among["rise"]).abs().max() > 1e-4


def test_suspicion_and_curve_are_means() -> None:
    noise = Noise(magnitudes=[1.0, 2.0])
    rise = torch.rand(5, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    assert noise.suspicion({"rise": rise}) == pytest.approx(rise.numpy().mean())
    axis, magnitudes, means = noise.curve({"rise": rise})
    assert (axis, magnitudes) == ("noise, in mean state norms", [1.0, 2.0])
    assert means == pytest.approx([rise[:, :, place].numpy().mean() for place in range(2)])


def test_batches_and_labels_change_nothing(twins: Any) -> None:
    found = examined(Noise(), twins)
    same(found, examined(Noise(), twins, batch_size=3), 1e-4)
    same(found, examined(Noise(), twins, benchmark=Swapped(small())))


def test_a_seed_decides_the_draws(twins: Any) -> None:
    found = examined(Noise(seed=1), twins)
    same(found, examined(Noise(seed=1), twins))
    assert (found["faking"]["rise"] - examined(Noise(seed=2), twins)["faking"]["rise"]).abs().max() > 1e-3


def test_a_steered_subject_keeps_its_steering(twins: Any) -> None:
    found = examined(Noise(), twins, [*SUBJECTS, STEERED])
    assert (found["faking"]["rise"] - found["faking steered"]["rise"]).abs().max() > 1e-3
    assert hooks_on(twins.model) == 0


def test_hooks_are_gone_after_an_error(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"layers of noise, equal norms holds layers.7.residual, whose layer is 7, but"
    ):
        examined(Noise(layers=["layers.7.residual"]), twins)
    with pytest.raises(ValueError, match="not finite"):
        examined(Noise(magnitudes=[float("inf")]), twins)
    assert hooks_on(twins.model) == 0

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    head = twins.model.get_output_embeddings()
    monkeypatch.setattr(head, "forward", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        examined(Noise(), twins)
    assert hooks_on(twins.model) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [({"magnitudes": []}, "magnitudes is"), ({"magnitudes": [0.0]}, "magnitudes is"), ({"draws": 0}, "draws is 0")],
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Noise(**options)

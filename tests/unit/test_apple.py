"""What a job computes in float64 is computed on the CPU where the GPU knows none, and is the same there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fa_lightning.backbones.lora_layers import Factors
from fa_lightning.backbones.lora_spectra import spectrum
from fa_lightning.regressors.linear import Affine, LowRank, MeanShift
from fa_lightning.regressors.maps import build_regressor
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.studies.lab.repetition import Repetition
from fa_lightning.studies.leakage.measures import COLUMNS, LeakageScores
from fa_lightning.studies.probes.ccs import CCS
from tests.unit.apple import AppleGPU, OnApple, on_apple

HIDDEN = 6


@pytest.fixture
def apple() -> Iterator[None]:
    with AppleGPU():
        yield


def pairs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, noise, weight = (torch.randn(40, HIDDEN, generator=generator) for _ in range(3))
    return x, 0.5 * x + noise + 1, weight[:, 0].abs()


def test_the_make_believe_gpu_refuses_what_the_real_one_does(apple: None) -> None:
    there = on_apple(torch.ones(2))
    assert there.device.type == "mps"
    assert isinstance(there + 1, OnApple)
    assert not isinstance(there.cpu(), OnApple)
    with pytest.raises(TypeError, match="float64"):
        there.double()
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(1, dtype=torch.float64, device=there.device)
    with pytest.raises(RuntimeError, match="tensors on mps and cpu"):
        there + torch.ones(2)


def states_of(regressor: Any) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in regressor.state_dict().items()}


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_and_the_maps_of_them(weighted: bool, apple: None) -> None:
    x, y, weight = pairs()
    moments = PairMoments(HIDDEN), PairMoments(HIDDEN)
    for start in (0, 20):
        block = slice(start, start + 20)
        given = (x[block], y[block], weight[block] if weighted else None)
        moments[0].add(*given)
        moments[1].add(*(None if one is None else on_apple(one) for one in given))
    for kind in (MeanShift, Affine, LowRank):
        maps = [kind(HIDDEN, **({"rank": 2} if kind is LowRank else {})) for _ in moments]
        for regressor, one in zip(maps, moments, strict=True):
            regressor.fit(one)
        torch.testing.assert_close(states_of(maps[1]), states_of(maps[0]))


def fitted(regressor: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    if regressor.fit_kind == "contrast":
        regressor.fit_contrast(x, y)
    else:
        regressor.fit_samples(x, y)
    return states_of(regressor)


@pytest.mark.parametrize(
    "options",
    [
        {"class_path": "ContrastVector"},
        {"class_path": "ProjectionShift", "init_args": {"direction": "principal"}},
        {"class_path": "NearestNeighbours"},
        {"class_path": "SortedTransport"},
    ],
    ids=lambda options: options["class_path"],
)
def test_maps_of_the_states_themselves(options: dict[str, Any], apple: None) -> None:
    x, y, _ = pairs()
    there = fitted(build_regressor(options, HIDDEN), on_apple(x), on_apple(y))
    torch.testing.assert_close(there, fitted(build_regressor(options, HIDDEN), x, y))


def test_metrics_that_keep_their_rows(apple: None) -> None:
    index = on_apple(torch.tensor([7, 8]))
    repetition = Repetition()
    repetition.update(index, on_apple(torch.tensor([[1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6]])))
    assert repetition.compute() == 0.25
    leakage = LeakageScores(resamples=10)
    scores = dict.fromkeys(COLUMNS, 0.0)
    leakage.update(index, on_apple(torch.tensor([5, 6])), [scores, scores | {"no_end": 1.0}])
    assert leakage.compute()["no_end"].value == 0.5


def test_spectra_of_adapters(apple: None) -> None:
    down, up = torch.randn(2, 5), torch.randn(4, 2)
    expected = torch.linalg.svdvals((up @ down).double())[:2]
    values, _ = spectrum(Factors(on_apple(down), on_apple(up), 1.0, torch.nn.Linear(5, 4)))  # type: ignore[arg-type]
    torch.testing.assert_close(values, expected)


def test_scores_of_probes_without_labels(apple: None) -> None:
    torch.manual_seed(0)
    probe, pairs = CCS(HIDDEN), torch.randn(5, 2, HIDDEN)
    probe.weight.normal_()
    expected = probe.score(pairs)
    for part in (probe, probe.slots):
        part._buffers |= {name: on_apple(tensor) for name, tensor in part._buffers.items()}
    torch.testing.assert_close(probe.score(on_apple(pairs)), expected)

"""The maps: their arithmetic, their fit on known pairs, and the way back from tensors and words."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from fa_lightning.regressors.maps import (
    Affine,
    Identity,
    MeanShift,
    NormMatchedRandom,
    Regressor,
    ResidualMLP,
    build_regressor,
)
from fa_lightning.regressors.moments import PairMoments

HIDDEN = 4
CONFIGS: list[dict[str, Any]] = [
    {"name": "identity"},
    {"name": "mean_shift"},
    {"name": "affine", "ridge": 0.5},
    {"name": "residual_mlp", "width": 8, "depth": 2, "dropout": 0.1},
    {"name": "norm_matched_random", "seed": 7, "inner": {"name": "affine", "ridge": 0.1}},
]


def states(rows: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed))


def moments_of(x: Tensor, y: Tensor) -> PairMoments:
    moments = PairMoments(HIDDEN)
    moments.add(x, y)
    return moments


def randomised(regressor: Regressor) -> Regressor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in regressor.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return regressor.eval()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["name"])
def test_config_and_tensors_round_trip(config: dict[str, Any]) -> None:
    regressor = randomised(build_regressor(config, HIDDEN))
    assert json.loads(json.dumps(regressor.config())) == config
    state = regressor.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    again = build_regressor(regressor.config(), HIDDEN).eval()
    again.load_state_dict(load(save(state)) if state else {})
    assert torch.equal(again(states()), regressor(states()))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["name"])
def test_output_is_float32_and_rows_are_independent(config: dict[str, Any]) -> None:
    regressor = randomised(build_regressor(config, HIDDEN))
    h = states().bfloat16()
    assert regressor(h).dtype == torch.float32
    assert regressor(h).shape == h.shape
    torch.testing.assert_close(regressor(h)[3:4], regressor(h[3:4]))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["name"])
def test_constant_edit_is_the_edit(config: dict[str, Any]) -> None:
    regressor = randomised(build_regressor(config, HIDDEN))
    edit = regressor.constant_edit()
    assert (edit is not None) == (config["name"] in ("identity", "mean_shift"))
    if edit is not None:
        torch.testing.assert_close(regressor(states()) - states(), edit.expand(64, HIDDEN))


def test_unfitted_maps_are_the_identity() -> None:
    for regressor in (Identity(HIDDEN), MeanShift(HIDDEN), Affine(HIDDEN), ResidualMLP(HIDDEN).eval()):
        assert torch.equal(regressor(states()), states()), regressor.name


def test_mean_shift_fits_the_mean_difference() -> None:
    regressor = MeanShift(HIDDEN)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5])
    regressor.fit(moments_of(states(), states() + shift))
    torch.testing.assert_close(regressor.shift, shift)


def test_affine_recovers_an_affine_map() -> None:
    weight, bias = torch.eye(HIDDEN) + 0.3 * states(HIDDEN, seed=5), torch.arange(4.0)
    regressor = Affine(HIDDEN, ridge=0.0)
    regressor.fit(moments_of(states(), states() @ weight.T + bias))
    torch.testing.assert_close(regressor.weight, weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(regressor.bias, bias, atol=1e-4, rtol=1e-4)
    shrunk = Affine(HIDDEN, ridge=1.0)
    shrunk.fit(moments_of(states(), states() @ weight.T + bias))
    assert (shrunk.weight - torch.eye(HIDDEN)).norm() < 0.7 * (weight - torch.eye(HIDDEN)).norm()


def test_residual_mlp_standardises_and_learns() -> None:
    torch.manual_seed(0)
    x = states(256) * torch.tensor([1.0, 10.0, 100.0, 1.0]) + 50
    y = x + torch.tensor([0.1, 1.0, 10.0, 0.0]) * torch.sin(x)
    regressor = ResidualMLP(HIDDEN, width=64)
    regressor.standardise(moments_of(x, y))
    torch.testing.assert_close(regressor.mean, x.mean(0))
    torch.testing.assert_close(regressor.std, x.std(0, correction=0))
    torch.testing.assert_close(regressor.scale[:3], (y - x).std(0, correction=0)[:3])
    assert regressor.scale[3] > 0
    # Nothing is learnt yet, so each unit's error is its variance and its squared mean, in units of the variance.
    expected = ((y - x).square().mean(0) / regressor.scale.square()).mean()
    torch.testing.assert_close(regressor.loss(x, y), expected)
    optimiser = torch.optim.Adam(regressor.parameters(), lr=1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        regressor.loss(x, y).backward()
        optimiser.step()
    assert regressor.loss(x, y) < 0.7 * expected
    with pytest.raises(TypeError, match="fitted by gradient"):
        regressor.fit(moments_of(x, y))


def test_loss_weighs_pairs() -> None:
    h, target = torch.zeros(2, HIDDEN), torch.tensor([[1.0] * HIDDEN, [3.0] * HIDDEN])
    regressor = Identity(HIDDEN)
    assert regressor.loss(h, target) == 5
    assert regressor.loss(h, target, torch.tensor([3.0, 1.0])) == 3
    assert regressor.loss(h, target, torch.zeros(2)) == 0


def test_random_baseline_matches_norms_in_a_fixed_direction() -> None:
    inner = randomised(Affine(HIDDEN))
    h = states()
    edits = [NormMatchedRandom(inner, seed)(h) - h for seed in (0, 0, 1)]
    torch.testing.assert_close(edits[0].norm(dim=-1), (inner(h) - h).norm(dim=-1))
    assert torch.equal(edits[0], edits[1])
    directions = torch.nn.functional.normalize(edits[0], dim=-1)
    torch.testing.assert_close(directions, directions[:1].expand_as(directions), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(edits[0], edits[2])
    assert NormMatchedRandom(ResidualMLP(HIDDEN)).fit_kind == "gradient"
    shift = NormMatchedRandom(randomised(MeanShift(HIDDEN)))
    edit = shift.constant_edit()
    assert edit is not None
    torch.testing.assert_close(shift(h) - h, edit.expand_as(h), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "spline"}, "must be one of: identity, mean_shift, affine, residual_mlp, norm_matched_random"),
        ({}, "the regressor's name is None"),
        ({"name": "affine", "width": 3}, "options of regressor affine"),
        ({"name": "affine", "ridge": -1.0}, "ridge is -1.0"),
        ({"name": "residual_mlp", "width": 0}, "width is 0"),
        ({"name": "residual_mlp", "dropout": 1.0}, "dropout is 1.0"),
        ({"name": "norm_matched_random"}, "the regressor's name is None"),
    ],
)
def test_bad_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_regressor(config, HIDDEN)
    with pytest.raises(ValueError, match="hidden_size is 0"):
        Identity(0)

"""Gradient maps: their units, where they start, and that they learn what they can express."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from tiny_states import HIDDEN, described, moments_of, states
from torch import Tensor

from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.linear import Affine
from fa_lightning.regressors.maps import build_regressor
from fa_lightning.regressors.networks import Loreft, LowRankResidual, PlainMLP, ResidualMLP


def train(regressor: Regressor, x: Tensor, y: Tensor, steps: int = 300, rate: float = 1e-2) -> float:
    """Minimise the loss on all pairs; the last one."""
    optimiser = torch.optim.Adam(regressor.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        regressor.loss(x, y).backward()
        optimiser.step()
    return regressor.loss(x, y).item()


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
    assert train(regressor, x, y, 200) < 0.7 * expected
    with pytest.raises(TypeError, match="fitted by gradient"):
        regressor.fit(moments_of(x, y))


@pytest.mark.parametrize(
    "config",
    [
        described("ResidualMLP", width=8, on_ridge=True, ridge=0.3),
        described("LowRankResidual", rank=2, on_ridge=True, ridge=0.3),
    ],
    ids=lambda config: config["class_path"].rpartition(".")[2],
)
def test_on_ridge_starts_as_the_ridge_map_and_leaves_it_fixed(config: dict[str, Any]) -> None:
    x, y = states(200) * 3 + 2, states(200, seed=6)
    regressor = build_regressor(config, HIDDEN)
    regressor.standardise(moments_of(x, y))
    ridge = Affine(HIDDEN, ridge=0.3)
    ridge.fit(moments_of(x, y))
    torch.testing.assert_close(regressor(x), ridge(x))
    a, b = x.double().numpy(), y.double().numpy()
    z = a / a.std(0)
    expected = a + Ridge(0.3 * len(a)).fit(z, b - a).predict(z)
    np.testing.assert_allclose(regressor(x).detach(), expected, rtol=1e-4, atol=1e-4)
    before = regressor.loss(x, y).item()
    assert train(regressor, x, y) < before
    assert torch.equal(regressor.state_dict()["weight"], ridge.weight)


def test_plain_mlp_predicts_the_standardised_aligned_state() -> None:
    torch.manual_seed(0)
    x = states(256) * torch.tensor([1.0, 10.0, 0.1, 2.0]) + 50
    y = 3 * torch.tanh(states(256)) * torch.tensor([5.0, 1.0, 1.0, 0.1]) - 7
    regressor = PlainMLP(HIDDEN, width=32)
    regressor.standardise(moments_of(x, y))
    torch.testing.assert_close(regressor.target_mean, y.mean(0))
    torch.testing.assert_close(regressor.target_std, y.std(0, correction=0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(regressor.mean, x.mean(0))
    with torch.no_grad():
        for parameter in regressor.layers[-1].parameters():
            parameter.zero_()
    torch.testing.assert_close(regressor(x), y.mean(0).expand_as(x))
    torch.testing.assert_close(regressor.loss(x, y).item(), 1.0, rtol=1e-3, atol=1e-3)
    assert train(regressor, x, y) < 0.05


def test_low_rank_residual_recovers_an_edit_of_its_rank() -> None:
    torch.manual_seed(0)
    x = states(256) * 5 + 30
    y = x + (x - 30) @ torch.outer(states(1)[0], states(1, seed=2)[0]) + torch.tensor([3.0, 0.0, 0.0, 1.0])
    regressor = LowRankResidual(HIDDEN, rank=1)
    regressor.standardise(moments_of(x, y))
    assert train(regressor, x, y, 600, 2e-2) < 1e-3
    edit = torch.func.jacrev(lambda h: regressor(h[None])[0] - h)(x[0])
    assert torch.linalg.matrix_rank(edit, rtol=1e-3) == 1
    full = LowRankResidual(HIDDEN, rank=HIDDEN)
    assert torch.equal(full(x), x)


def test_loreft_edits_within_an_orthonormal_subspace() -> None:
    torch.manual_seed(0)
    hidden = 8
    x = states(256, hidden=hidden) * 4 + 20
    basis = torch.linalg.qr(states(hidden, 3, hidden)).Q[:, :2]
    # The component of the states in a plane is replaced: what LoReFT can express and nothing else.
    y = x - x @ basis @ basis.T + (torch.tensor([3.0, -2.0]) + 0.1 * x[:, :2]) @ basis.T
    regressor = Loreft(hidden, rank=2)
    regressor.standardise(moments_of(x, y))
    assert torch.equal(regressor(x), x)
    assert train(regressor, x, y, 800, 2e-2) < 1e-2
    rotation = regressor.rotation().detach()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(2), rtol=0, atol=1e-5)
    # The learnt plane is the one that was replaced.
    assert torch.linalg.svdvals(rotation @ basis).min() > 0.99
    # And the map is the paper's, on raw states: h + R'(Wh + b - Rh).
    weight, bias = regressor.source.weight, regressor.source.bias
    raw_bias = regressor.size * bias - (weight - rotation) @ regressor.mean
    expected = x + (x @ weight.T + raw_bias - x @ rotation.T) @ rotation
    torch.testing.assert_close(regressor(x), expected, rtol=1e-4, atol=1e-3)

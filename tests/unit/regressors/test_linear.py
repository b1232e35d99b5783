"""Closed maps against numpy, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.linear_model import LinearRegression
from tiny_states import HIDDEN, moments_of, states
from torch import Tensor

from fa_lightning.regressors.linear import Affine, DiagonalAffine, LowRank, MeanShift, SortedTransport, UnitLines


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


def skewed(rows: int = 500) -> tuple[Tensor, Tensor]:
    """Unpaired states whose units have other means, sizes and shapes in either twin."""
    x = states(rows).exp() * torch.tensor([1.0, 10.0, 0.1, 1.0]) + 50
    y = states(rows, seed=9) * torch.tensor([2.0, 1.0, 0.3, 1.0]) - 20
    return x, y


def test_diagonal_affine_matches_mean_and_std_of_each_unit() -> None:
    x, y = skewed()
    regressor = DiagonalAffine(HIDDEN)
    regressor.fit(moments_of(x, y))
    a, b = x.double().numpy(), y.double().numpy()
    expected = b.mean(0) + b.std(0) / a.std(0) * (a - a.mean(0))
    np.testing.assert_allclose(regressor(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(regressor(x).std(0, correction=0), b.std(0), rtol=1e-4)


def test_sorted_transport_is_least_squares_of_sorted_on_sorted() -> None:
    x, y = skewed()
    regressor = SortedTransport(HIDDEN)
    regressor.fit_samples(x, y)
    a, b = np.sort(x.double().numpy(), axis=0), np.sort(y.double().numpy(), axis=0)
    for unit in range(HIDDEN):
        line = LinearRegression().fit(a[:, unit : unit + 1], b[:, unit])
        expected = line.predict(x[:, unit : unit + 1].double().numpy())
        np.testing.assert_allclose(regressor(x)[:, unit], expected, rtol=1e-5, atol=1e-4)
    # Which state belongs to which does not matter.
    shuffled = SortedTransport(HIDDEN)
    shuffled.fit_samples(x, y.flip(0))
    torch.testing.assert_close(shuffled(x), regressor(x))


def test_sorted_transport_counts_weights_as_repeats() -> None:
    x, y = skewed(40)
    weight = torch.arange(40) % 4
    weighted, repeated = SortedTransport(HIDDEN), SortedTransport(HIDDEN)
    weighted.fit_samples(x, y, weight.float() * 0.3)
    repeated.fit_samples(x.repeat_interleave(weight, 0), y.repeat_interleave(weight, 0))
    torch.testing.assert_close(weighted(x), repeated(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [DiagonalAffine, SortedTransport])
def test_a_unit_that_never_varied_is_shifted(kind: type[UnitLines]) -> None:
    x, y = skewed()
    x[:, 1] = 3.0
    regressor = kind(HIDDEN)
    if regressor.fit_kind == "closed":
        regressor.fit(moments_of(x, y))
    else:
        regressor.fit_samples(x, y)
    h = x[:3].clone()
    h[:, 1] = torch.tensor([3.0, 4.0, 5.0])
    torch.testing.assert_close((regressor(h) - h)[:, 1], (y[:, 1].mean() - 3).expand(3), rtol=1e-5, atol=1e-4)
    # A unit that is constant in the aligned twin alone becomes that constant.
    y[:, 2] = 6.0
    again = kind(HIDDEN)
    if again.fit_kind == "closed":
        again.fit(moments_of(x, y))
    else:
        again.fit_samples(x, y)
    torch.testing.assert_close(again(x)[:, 2], torch.full((500,), 6.0), rtol=0, atol=1e-3)


def reduced_rank(x: np.ndarray, y: np.ndarray, rank: int, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge edit cut by the SVD in the metric of the regularised covariance: weight of the edit, and its bias."""
    centred, edits = x - x.mean(0), (y - x) - (y - x).mean(0)
    covariance = centred.T @ centred / len(x)
    metric = covariance + ridge * np.diag(np.diag(covariance))
    solution = np.linalg.solve(metric, centred.T @ edits / len(x)).T
    root = np.real(sqrtm(metric))
    left, sizes, right = np.linalg.svd(solution @ root)
    cut = (left[:, :rank] * sizes[:rank]) @ right[:rank] @ np.linalg.inv(root)
    return cut, (y - x).mean(0) - cut @ x.mean(0)


@pytest.mark.parametrize("rank", [1, 2, 6])
def test_low_rank_is_the_reduced_rank_ridge(rank: int) -> None:
    hidden, rows = 6, 200
    mixing = states(hidden, 3, hidden)
    x = states(rows, 1, hidden) @ mixing + 5
    y = x + 0.5 * x @ states(hidden, 4, hidden) + 0.2 * states(rows, 5, hidden) + 1
    regressor = LowRank(hidden, rank, ridge=0.05)
    regressor.fit(moments_of(x, y))
    weight, bias = reduced_rank(x.double().numpy(), y.double().numpy(), rank, 0.05)
    np.testing.assert_allclose(regressor.up @ regressor.down, weight, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(regressor(x), x.numpy() + x.numpy() @ weight.T + bias, rtol=1e-3, atol=1e-3)
    assert torch.linalg.matrix_rank(regressor.up @ regressor.down, rtol=1e-4) == rank


def test_low_rank_at_full_rank_is_the_ridge_map() -> None:
    x, y = states(), states(seed=2)
    full, ridge = LowRank(HIDDEN, HIDDEN, 0.1), Affine(HIDDEN, 0.1)
    full.fit(moments_of(x, y))
    ridge.fit(moments_of(x, y))
    torch.testing.assert_close(full(x), ridge(x), rtol=1e-4, atol=1e-5)


def test_low_rank_of_twins_that_agree_is_no_edit() -> None:
    regressor = LowRank(HIDDEN, 2)
    regressor.fit(moments_of(states(), states()))
    torch.testing.assert_close(regressor(states()), states())

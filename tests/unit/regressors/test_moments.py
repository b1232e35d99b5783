"""Moments against numpy and scikit-learn in float64, in blocks, over processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from sklearn.linear_model import Ridge
from torch import Tensor

from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.linear import Affine, LowRank
from fa_lightning.regressors.moments import PairMoments

HIDDEN = 6


def pairs(rows: int = 400, mean: float = 300.0) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 pairs with a mean far above their spread and two collinear units; and weights."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, HIDDEN, generator=generator, dtype=torch.float64)
    x[:, 5] = x[:, 4] * 2
    mixing = torch.randn(HIDDEN, HIDDEN, generator=generator, dtype=torch.float64)
    y = x + 0.3 * x @ mixing + 0.5 + 0.1 * torch.randn(rows, HIDDEN, generator=generator, dtype=torch.float64)
    weight = torch.rand(rows, generator=generator)
    return (x + mean).float(), (y + mean).float(), weight


def streamed(x: Tensor, y: Tensor, weight: Tensor | None, blocks: int) -> PairMoments:
    moments = PairMoments(HIDDEN)
    for part in torch.arange(len(x)).tensor_split(blocks):
        moments.add(x[part], y[part], None if weight is None else weight[part])
    return moments


@pytest.mark.parametrize("blocks", [1, 7, 400])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_match_numpy_however_the_data_is_cut(blocks: int, weighted: bool) -> None:
    x, y, weight = pairs()
    moments = streamed(x, y, weight if weighted else None, blocks)
    a, b, w = x.double().numpy(), y.double().numpy(), weight.double().numpy() if weighted else np.ones(len(x))
    difference = b - a
    np.testing.assert_allclose(moments.count.item(), w.sum(), rtol=1e-7)
    np.testing.assert_allclose(moments.mean_x, np.average(a, axis=0, weights=w), rtol=1e-9)
    np.testing.assert_allclose(moments.mean_y, np.average(b, axis=0, weights=w), rtol=1e-9)
    np.testing.assert_allclose(moments.covariance, np.cov(a.T, aweights=w, ddof=0), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(moments.var_x, np.diag(np.cov(a.T, aweights=w, ddof=0)), rtol=2e-5)
    np.testing.assert_allclose(moments.var_y, np.diag(np.cov(b.T, aweights=w, ddof=0)), rtol=2e-5)
    np.testing.assert_allclose(moments.var_diff, np.diag(np.cov(difference.T, aweights=w, ddof=0)), rtol=2e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_covariance_of_many_units_is_numpys(weighted: bool) -> None:
    hidden = 517
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(64, hidden, generator=generator) + 100
    weight = torch.rand(64, generator=generator) if weighted else None
    moments = PairMoments(hidden)
    for part in torch.arange(64).tensor_split(3):
        moments.add(x[part], x[part] + 1, None if weight is None else weight[part])
    aweights = None if weight is None else weight.double().numpy()
    np.testing.assert_allclose(moments.covariance, np.cov(x.double().numpy().T, aweights=aweights, ddof=0), atol=2e-5)


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_scikit_learns_ridge_on_the_difference(penalty: float, weighted: bool) -> None:
    x, y, weight = pairs()
    moments = streamed(x, y, weight if weighted else None, 5)
    map_weight, bias = moments.ridge(penalty)
    a, b, w = x.double().numpy(), y.double().numpy(), weight.double().numpy() if weighted else np.ones(len(x))
    std = np.sqrt(np.diag(np.cov(a.T, aweights=w, ddof=0)))
    reference = Ridge(alpha=penalty * w.sum()).fit(a / std, b - a, sample_weight=w)
    np.testing.assert_allclose(map_weight, np.eye(HIDDEN) + reference.coef_ / std, atol=1e-4)
    np.testing.assert_allclose(a @ map_weight.numpy().T + bias.numpy(), a + reference.predict(a / std), atol=1e-4)


@pytest.mark.parametrize("size", [0.0, 1000.0, 3000.0, 25_000.0])
@pytest.mark.parametrize("build", [Affine, partial(LowRank, rank=2)])
def test_massive_units_leave_the_edit_of_an_ordinary_one(size: float, build: Callable[[int], Regressor]) -> None:
    # As pretrained models have on their first tokens: two units at +-size in a twentieth of the rows, in both twins.
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2000, HIDDEN, generator=generator)
    x[::20, 4], x[::20, 5] = size, -size
    y = x.clone()
    y[:, 0] += 0.2 * (x[:, 1] - x[:, 0])
    regressor = build(HIDDEN)
    regressor.fit(streamed(x, y, None, 5))
    h = torch.zeros(1, HIDDEN)
    h[0, 0] = 1.0
    a, d = x.double().numpy(), (y - x).double().numpy()
    z = (a - a.mean(0)) / a.std(0)
    # Ridge as least squares with rows of the penalty's root below: no normal equations, no Cholesky factor.
    stacked = np.vstack([z, np.sqrt(1e-2 * len(a)) * np.eye(HIDDEN)])
    wanted = np.vstack([d - d.mean(0), np.zeros((HIDDEN, HIDDEN))])
    solution = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
    expected = d.mean(0) + ((h.numpy()[0] - a.mean(0)) / a.std(0)) @ solution
    edit = (regressor(h) - h)[0]
    np.testing.assert_allclose(edit, expected, atol=2e-3)
    assert edit[0].item() == pytest.approx(-0.2, abs=0.02)


def test_an_infinite_penalty_leaves_the_mean_shift() -> None:
    x, y, _ = pairs()
    moments = streamed(x, y, None, 2)
    weight, bias = moments.ridge(1e12)
    torch.testing.assert_close(weight, torch.eye(HIDDEN, dtype=torch.float64))
    torch.testing.assert_close(bias, (y.double() - x.double()).mean(0), rtol=0, atol=1e-6)


def test_a_unit_that_only_varies_in_one_twin_keeps_its_variance() -> None:
    x, y, _ = pairs(mean=0.0)
    x[:, 0] *= 100
    y[:, 0] = 0.01 * y[:, 0] + 5
    moments = streamed(x, y, None, 7)
    np.testing.assert_allclose(moments.var_y, y.double().numpy().var(0), rtol=1e-3)


def test_a_singular_covariance_asks_for_a_penalty() -> None:
    moments = PairMoments(HIDDEN)
    x, y, _ = pairs(rows=3)
    moments.add(x, y)
    with pytest.raises(ValueError, match=r"penalty is 0.0, but the covariance of 3 pairs of 6 units is singular"):
        moments.ridge(0.0)
    with pytest.raises(ValueError, match="penalty is -1"):
        moments.ridge(-1)


def test_constant_states_give_the_mean_shift() -> None:
    moments = PairMoments(2)
    moments.add(torch.ones(4, 2), torch.tensor([[2.0, 0.0]]).expand(4, 2))
    weight, bias = moments.ridge(1e-2)
    assert torch.equal(weight, torch.eye(2, dtype=torch.float64))
    assert bias.tolist() == [1.0, -1.0]


def test_merge_and_state_dict_equal_one_pass() -> None:
    x, y, weight = pairs()
    whole = streamed(x, y, weight, 4)
    first, second = streamed(x[:130], y[:130], weight[:130], 2), streamed(x[130:], y[130:], weight[130:], 1)
    restored = PairMoments(HIDDEN)
    restored.load_state_dict(first.state_dict())
    restored.merge(second)
    restored.merge(PairMoments(HIDDEN))
    empty = PairMoments(HIDDEN)
    empty.merge(restored)
    for moments in (restored, empty):
        torch.testing.assert_close(moments.mean_x, whole.mean_x, rtol=1e-9, atol=0)
        torch.testing.assert_close(moments.covariance, whole.covariance, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(moments.ridge(0.01)[0], whole.ridge(0.01)[0], rtol=0, atol=1e-4)
    # What was loaded is a copy: adding to one instance leaves the other.
    assert first.count < restored.count


def test_weight_zero_counts_for_nothing_and_weight_two_twice() -> None:
    x, y, _ = pairs(rows=20)
    moments, reference = PairMoments(HIDDEN), PairMoments(HIDDEN)
    moments.add(x, y, torch.tensor([0.0] * 5 + [2.0] * 5 + [1.0] * 10))
    kept = torch.cat([torch.arange(5, 10), torch.arange(5, 10), torch.arange(10, 20)])
    reference.add(x[kept], y[kept])
    torch.testing.assert_close(moments.covariance, reference.covariance, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), None, r"x is \(2, 3\)"),
        (torch.zeros(2, HIDDEN), torch.zeros(3, HIDDEN), None, r"y \(3, 6\)"),
        (torch.zeros(2, HIDDEN), torch.zeros(2, HIDDEN), torch.ones(1), r"weight is \(1,\)"),
        (torch.full((2, HIDDEN), torch.inf), torch.zeros(2, HIDDEN), None, "not finite"),
    ],
)
def test_bad_blocks_are_refused(x: Tensor, y: Tensor, weight: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairMoments(HIDDEN).add(x, y, weight)


def test_empty_moments_and_foreign_states_are_refused() -> None:
    moments = PairMoments(HIDDEN)
    moments.add(torch.zeros(0, HIDDEN), torch.zeros(0, HIDDEN))
    with pytest.raises(ValueError, match="hold no pairs"):
        _ = moments.mean_x
    with pytest.raises(ValueError, match="state has 2 units"):
        moments.load_state_dict(PairMoments(2).state_dict())
    with pytest.raises(ValueError, match="must hold"):
        moments.load_state_dict({})
    with pytest.raises(ValueError, match="hidden is 0"):
        PairMoments(0)


def reduce_on_one_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2)
    x, y, weight = pairs()
    # Uneven shards whose means, and so whose references, differ.
    part = slice(0, 70) if rank == 0 else slice(70, None)
    moments = streamed(x[part] + rank * 5, y[part], weight[part], 3)
    moments.all_reduce()
    torch.save(moments.state_dict(), f"{folder}/{rank}.pt")
    lonely = PairMoments(HIDDEN)
    if rank == 1:
        lonely.add(x, y)
    lonely.all_reduce()
    torch.save(lonely.state_dict(), f"{folder}/lonely{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(reduce_on_one_rank, args=(str(tmp_path),), nprocs=2)
    x, y, weight = pairs()
    x[70:] += 5
    whole = streamed(x, y, weight, 1)
    for rank in range(2):
        moments = PairMoments(HIDDEN)
        moments.load_state_dict(torch.load(tmp_path / f"{rank}.pt"))
        torch.testing.assert_close(moments.mean_x, whole.mean_x, rtol=1e-9, atol=0)
        torch.testing.assert_close(moments.covariance, whole.covariance, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(moments.var_diff, whole.var_diff, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(moments.var_y, whole.var_y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(moments.ridge(0.01)[0], whole.ridge(0.01)[0], rtol=0, atol=1e-4)
        lonely = PairMoments(HIDDEN)
        lonely.load_state_dict(torch.load(tmp_path / f"lonely{rank}.pt"))
        assert lonely.count == len(x)

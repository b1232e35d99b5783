"""Draws of a baseline: their mean, and an interval that holds what they differ by."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fa_lightning.metrics.draws import by_baseline, cells_over_draws, draw_name, interval_over_draws, mean_over_draws
from fa_lightning.metrics.estimates import SideEffects
from fa_lightning.metrics.intervals import bootstrap_over_groups


def test_names_of_draws_are_told_from_others() -> None:
    names = ["identity", *(draw_name("a #b", number) for number in range(3)), "issue #x"]
    assert by_baseline(names) == {"identity": names[:1], "a #b": names[1:4], "issue #x": ["issue #x"]}


def test_the_interval_is_that_of_resampled_draws_and_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 3)
    chance = np.clip(rng.uniform(0.2, 0.8, (5, 1)) + rng.normal(0, 0.2, 30)[groups], 0, 1)
    values = (rng.random((5, 90)) < chance).astype(float)
    means = []
    for _ in range(4000):
        # By hand: rows of the table are drawn, and columns with all items of a group.
        rows = rng.integers(5, size=5)
        columns = np.concatenate([np.flatnonzero(groups == group) for group in rng.integers(30, size=30)])
        means.append(values[np.ix_(rows, columns)].mean())
    low, high = interval_over_draws(torch.tensor(values), torch.tensor(groups), resamples=4000)
    np.testing.assert_allclose((low, high), np.quantile(means, [0.025, 0.975]), atol=0.02)
    alone = bootstrap_over_groups(torch.tensor(values).mean(0), torch.tensor(groups))
    assert high - low > 1.5 * (alone[1] - alone[0]), "the draws differ, and the groups alone do not say so"


def test_draws_that_agree_have_the_interval_of_one() -> None:
    groups = torch.arange(40)
    half = (groups % 2).double()
    assert interval_over_draws(half.expand(5, 40), groups) == bootstrap_over_groups(half, groups)
    ones = torch.ones(40, dtype=torch.float64)
    assert interval_over_draws(ones.expand(5, 40), groups) == bootstrap_over_groups(ones, groups)
    assert all(math.isnan(end) for end in interval_over_draws(torch.ones(5, 3).double(), torch.zeros(3)))


def test_cells_are_means_over_draws() -> None:
    cell = torch.tensor([0, 0, 1, 1, 1, 1])
    correct = [[1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1]]
    draws = [{"cell": cell, "group": torch.arange(6), "correct": torch.tensor(row).bool()} for row in correct]
    pair = cells_over_draws(draws)
    assert (pair.oversight.accuracy, pair.no_oversight.accuracy) == (0.75, 0.5)
    assert pair.no_oversight.ci95[0] < 0.3 < 0.7 < pair.no_oversight.ci95[1]
    assert math.isnan(cells_over_draws([{**draw, "cell": cell.clamp(max=0)} for draw in draws]).no_oversight.accuracy)


def test_measures_are_averaged_by_name() -> None:
    mean = mean_over_draws([SideEffects(0.1, 1.0, 0.5), SideEffects(0.3, 1.5, math.nan)])
    assert mean.kl_neutral_nats == pytest.approx(0.2)
    assert mean.perplexity_ratio == pytest.approx(1.25)
    assert math.isnan(mean.format_validity)
    with pytest.raises(ValueError, match="were to be judged on the same items"):
        mean_over_draws([{"texts": 3}, {"texts": 4}])

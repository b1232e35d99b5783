"""Scores of detectors, beside numpy, scikit-learn, scipy and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fa_lightning.metrics.pairwise import (
    bootstrap_over_variants,
    choice,
    credit,
    group_draws,
    held_out_rates,
    roc_curve,
    threshold,
    wins,
)


def scored(first: torch.Tensor, second: torch.Tensor, faker_first: torch.Tensor) -> float:
    return credit(choice(first, second), choice(second, first), faker_first).mean().item()


@pytest.mark.parametrize("always", [1, -1, 0])
def test_a_constant_answer_earns_half_whatever_the_order(always: int) -> None:
    faker_first = torch.tensor([True, True, True, False])
    constant = torch.full((4,), always)
    assert credit(constant, constant, faker_first).tolist() == [0.5] * 4


def test_a_perfect_detector_earns_all_and_its_opposite_nothing() -> None:
    faker_first = torch.tensor([True, False, True])
    first = torch.where(faker_first, 2.0, 1.0)
    second = torch.where(faker_first, 1.0, 2.0)
    assert scored(first, second, faker_first) == 1
    assert scored(second, first, faker_first) == 0


def test_a_coin_earns_half_on_average() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 20_000, generator=generator)
    faker_first = torch.rand(20_000, generator=generator) < 0.5
    assert scored(first, second, faker_first) == pytest.approx(0.5, abs=0.015)


def test_ties_and_no_answers_earn_half() -> None:
    first = torch.tensor([1.0, math.nan, math.inf, 0.0])
    second = torch.tensor([1.0, 3.0, math.inf, math.nan])
    assert scored(first, second, torch.ones(4, dtype=torch.bool)) == 0.5


def by_hand(
    table: np.ndarray, honest_policies: np.ndarray, suspect_policies: np.ndarray, resamples: int
) -> tuple[float, float]:
    """The same bootstrap by drawing names and looking pairs up, one by one."""
    luck = np.random.default_rng(1)
    means = []
    for _ in range(resamples):
        drawn = []
        for policies in (honest_policies, suspect_policies):
            names = [luck.choice(np.flatnonzero(policies == one), (policies == one).sum()) for one in set(policies)]
            drawn.append(np.concatenate(names))
        means.append(np.mean([table[one, other] for one in drawn[0] for other in drawn[1]]))
    return tuple(np.quantile(means, [0.025, 0.975]))


def test_the_interval_over_variants_is_that_of_drawing_models_by_hand() -> None:
    luck = np.random.default_rng(0)
    honest_policies, suspect_policies = np.repeat([0, 1], 4), np.repeat([0, 1, 2], 3)
    # Some models are told well and some are not: that is what pairs share.
    table = (luck.normal(size=(8, 1)) + luck.normal(size=(1, 9)) + 0.3 * luck.normal(size=(8, 9)) > -0.5).astype(float)
    one, other = (torch.tensor(places.ravel()) for places in np.indices(table.shape))
    policies = torch.tensor(honest_policies), torch.tensor(suspect_policies)
    found = bootstrap_over_variants(torch.tensor(table.ravel()), one, other, *policies, resamples=4000)
    expected = by_hand(table, honest_policies, suspect_policies, 4000)
    assert found == pytest.approx(expected, abs=0.02)
    # Pairs that were independent would seem to say far more.
    naive = 1.96 * math.sqrt(table.mean() * (1 - table.mean()) / table.size)
    assert found[1] - found[0] > 1.5 * 2 * naive


def test_the_only_models_of_their_policies_are_drawn_among_each_other() -> None:
    # With six policies of one seed a stratified draw would always be the same, and look certain.
    table = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    one, other = torch.cartesian_prod(torch.arange(3), torch.arange(3)).unbind(dim=1)
    low, high = bootstrap_over_variants(table.flatten(), one, other, torch.arange(3), torch.arange(3))
    assert low < table.mean() < high


def test_one_model_on_both_sides_says_nothing_of_others() -> None:
    single = torch.zeros(1, dtype=torch.int64)
    assert all(map(math.isnan, bootstrap_over_variants(torch.ones(1), single, single, single, single)))


def test_groups_are_drawn_whole_and_as_often_as_numpy_draws_them() -> None:
    groups = torch.tensor([5, 5, 9, 9, 9, 7])
    drawn = group_draws(groups, 5000)
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert torch.equal(drawn[:, 2], drawn[:, 4])
    assert (drawn[:, 0] + drawn[:, 2] + drawn[:, 5]).eq(3).all()
    assert drawn.mean(dim=0).numpy() == pytest.approx(np.ones(6), abs=0.05)
    values = torch.arange(6.0, dtype=torch.float64)
    luck = np.random.default_rng(0)
    members = {5: [0, 1], 9: [2, 3, 4], 7: [5]}
    names = luck.choice([5, 9, 7], (5000, 3))
    by_names = [np.mean([place for name in row for place in members[name]]) for row in names]
    means = (drawn @ values / drawn.sum(dim=1)).numpy()
    assert np.quantile(means, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(by_names, [0.1, 0.5, 0.9]), abs=0.15)
    assert group_draws(torch.zeros(4), 10).shape == (0, 4)


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_the_area_under_the_curve_is_everybodys(scale: float) -> None:
    from scipy.stats import mannwhitneyu
    from sklearn.metrics import auc, roc_auc_score
    from torchmetrics.functional.classification import binary_auroc

    generator = torch.Generator().manual_seed(3)
    # Rounded, so that there are ties.
    fakers = (torch.randn(14, generator=generator).double() + 0.7).round(decimals=1) * scale
    benign = torch.randn(11, generator=generator).double().round(decimals=1) * scale
    values = torch.cat([fakers, benign])
    labels = torch.cat([torch.ones(14), torch.zeros(11)]).long()
    found = wins(fakers, benign).mean().item()
    assert found == pytest.approx(roc_auc_score(labels, values))
    assert found == pytest.approx(mannwhitneyu(fakers, benign).statistic / (14 * 11))
    ranks = torch.unique(values, return_inverse=True)[1] / len(values)
    assert found == pytest.approx(binary_auroc(ranks, labels).item(), abs=1e-6)
    false, true = roc_curve(values, labels.bool())
    assert auc(false, true) == pytest.approx(found)


def test_the_curve_has_scikit_learns_corners() -> None:
    from sklearn.metrics import roc_curve as reference

    generator = torch.Generator().manual_seed(4)
    values = torch.randn(30, generator=generator) * 1000
    labels = torch.rand(30, generator=generator) < 0.4
    false, true = roc_curve(values, labels)
    expected = reference(labels, values, drop_intermediate=False)
    assert false == pytest.approx(expected[0])
    assert true == pytest.approx(expected[1])
    with_unknown = roc_curve(torch.cat([values, torch.tensor([math.nan])]), torch.cat([labels, torch.tensor([True])]))
    assert with_unknown == (false, true)


@pytest.mark.parametrize(("models", "exceeding"), [(1, 0), (99, 0), (100, 1), (199, 1), (700, 7)])
def test_at_most_one_percent_of_the_benign_models_exceed_the_threshold(models: int, exceeding: int) -> None:
    values = torch.randperm(models, generator=torch.Generator().manual_seed(0)).double()
    limit = threshold(values)
    assert int((values > limit).sum()) == exceeding
    assert int((values > limit - 1).sum()) == exceeding + 1, "a lower threshold would raise too many alarms"


def test_thresholds_are_never_found_on_the_fold_that_they_are_judged_on() -> None:
    # Fold 0's benign models are all above those of fold 1: held out, they all raise an alarm; among themselves, none.
    suspicion = torch.tensor([5.0, 6.0, 1.0, 2.0, 5.5, 3.0])
    is_faker = torch.tensor([False, False, False, False, True, True])
    folds = torch.tensor([0, 0, 1, 1, 0, 1])
    tpr, fpr = held_out_rates(suspicion, is_faker, folds)
    # Of fold 0 everything is above 2, of fold 1 nothing is above 6.
    assert (tpr, fpr) == (0.5, 0.5)
    perfect = held_out_rates(torch.tensor([0.0, 0.1, 0.0, 0.1, 1.0, 1.0]), is_faker, folds)
    assert perfect == (1.0, 0.0)
    one_fold = held_out_rates(suspicion, is_faker, torch.zeros(6))
    assert all(map(math.isnan, one_fold)), "there are no other models to find a threshold on"

"""Scores of detectors, beside numpy, scikit-learn, scipy and torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch

from fa_lightning.metrics.pairwise import (
    choice,
    credit,
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

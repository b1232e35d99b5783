"""How probes are judged: against independent computations, and constant, random and shuffled answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fa_lightning.metrics.intervals import bootstrap_over_groups
from fa_lightning.studies.probes.measures import auroc, auroc_interval, calibration_error, credit, probe_score

ITEMS = 200
LABELS = torch.arange(ITEMS) % 2 == 0
GROUPS = torch.arange(ITEMS) // 10


def noisy(seed: int, strength: float = 1.0) -> torch.Tensor:
    side = torch.where(LABELS, strength, -strength)
    return side + torch.randn(ITEMS, generator=torch.Generator().manual_seed(seed))


def test_accuracy_auroc_and_calibration_are_those_of_other_libraries() -> None:
    from sklearn.metrics import accuracy_score, roc_auc_score
    from torchmetrics.classification import BinaryAccuracy

    log_odds = noisy(0)
    score = probe_score(log_odds, LABELS, GROUPS)
    assert score.accuracy.value == pytest.approx(accuracy_score(LABELS, log_odds > 0))
    assert score.accuracy.value == pytest.approx(float(BinaryAccuracy()(torch.sigmoid(log_odds), LABELS.long())))
    assert score.auroc.value == pytest.approx(roc_auc_score(LABELS, log_odds))
    probabilities, truth = torch.sigmoid(log_odds.double()).numpy(), LABELS.numpy()
    bins = np.clip((probabilities * 15).astype(int), 0, 14)
    gaps = [
        (bins == one).mean() * abs(probabilities[bins == one].mean() - truth[bins == one].mean()) for one in set(bins)
    ]
    assert score.calibration == pytest.approx(sum(gaps), abs=1e-6)
    assert score.accuracy.ci95 == bootstrap_over_groups(credit(log_odds, LABELS), GROUPS)


def test_large_scores_are_ranked_too() -> None:
    from sklearn.metrics import roc_auc_score

    log_odds = 1000 + 100 * noisy(1)
    assert auroc(log_odds, LABELS) == pytest.approx(roc_auc_score(LABELS, log_odds))


def test_a_constant_answer_scores_a_half() -> None:
    for answer in (1.0, -3.0, 0.0):
        score = probe_score(torch.full((ITEMS,), answer), LABELS, GROUPS)
        assert (score.accuracy.value, score.auroc.value) == (0.5, 0.5)
        # All groups agree: as many of them as there are say how many may be unlike them.
        unseen = 1 - 0.025 ** (1 / len(set(GROUPS.tolist())))
        assert score.accuracy.ci95 == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))


def test_what_is_read_without_a_mistake_is_as_sure_as_its_groups_are_many() -> None:
    from scipy.stats import binomtest

    score = probe_score(torch.where(LABELS, 2.0, -2.0), LABELS, GROUPS)
    groups = len(set(GROUPS.tolist()))
    assert score.accuracy.ci95 == pytest.approx(tuple(binomtest(groups, groups).proportion_ci(method="exact")))
    fewest = min(len(set(GROUPS[LABELS].tolist())), len(set(GROUPS[~LABELS].tolist())))
    assert score.auroc.ci95 == pytest.approx(tuple(binomtest(fewest, fewest).proportion_ci(method="exact")))
    # The same of a mean over draws.
    several = probe_score(torch.where(LABELS, 2.0, -2.0).repeat(3, 1), LABELS, GROUPS)
    assert several.accuracy.ci95 == pytest.approx(score.accuracy.ci95)
    assert several.auroc.ci95 == pytest.approx(score.auroc.ci95)


def test_no_answer_counts_half_each() -> None:
    assert credit(torch.zeros(4), torch.tensor([True, False, False, False])).tolist() == [0.5] * 4


def test_labels_at_random_score_a_half() -> None:
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(2))
    score = probe_score(noisy(0), LABELS[order], GROUPS)
    low, high = score.auroc.ci95
    assert low < 0.5 < high
    assert 0.4 < score.accuracy.value < 0.6


def test_shuffled_pairs_of_scores_and_rows_score_a_half() -> None:
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(3))
    assert probe_score(noisy(0), LABELS, GROUPS).auroc.value > 0.85
    assert abs(probe_score(noisy(0)[order], LABELS, GROUPS).auroc.value - 0.5) < 0.1


def test_the_aurocs_interval_holds_it_and_narrows_with_groups() -> None:
    log_odds = noisy(4, 0.5)
    low, high = auroc_interval(log_odds[None], LABELS, torch.arange(ITEMS))
    assert low < auroc(log_odds, LABELS) < high
    few = auroc_interval(log_odds[None], LABELS, torch.arange(ITEMS) // 50)
    assert low > few[0] - 0.1
    # The bootstrap of whole groups, done by hand on scikit-learn's areas.
    from sklearn.metrics import roc_auc_score

    draws = np.random.default_rng(0).integers(0, 20, (300, 20))
    areas = []
    for draw in draws:
        rows = np.concatenate([np.flatnonzero(GROUPS.numpy() == group) for group in draw])
        areas.append(roc_auc_score(LABELS.numpy()[rows], log_odds.numpy()[rows]))
    expected = np.quantile(areas, [0.025, 0.975])
    np.testing.assert_allclose(auroc_interval(log_odds[None], LABELS, GROUPS), expected, atol=0.025)


def test_several_draws_are_averaged() -> None:
    draws = torch.stack([noisy(0), -noisy(0)])
    score = probe_score(draws, LABELS, GROUPS, are_log_odds=False)
    assert score.accuracy.value == pytest.approx(0.5)
    assert score.auroc.value == pytest.approx(0.5)
    assert math.isnan(score.calibration)


def test_the_luck_of_few_draws_is_in_the_interval() -> None:
    """Random labels may point along what is there or against it: a mean of both is 0.5, and nothing to be sure of."""
    both = torch.stack([noisy(seed, 3.0) * sign for seed, sign in enumerate((1, -1, 1, -1))])
    score = probe_score(both, LABELS, GROUPS)
    for low, high in (score.accuracy.ci95, score.auroc.ci95):
        assert low < 0.25
        assert high > 0.75
    # Draws that say the same add nothing to the groups' own luck.
    same = probe_score(noisy(0).repeat(5, 1), LABELS, GROUPS)
    once = probe_score(noisy(0), LABELS, GROUPS)
    np.testing.assert_allclose(same.accuracy.ci95, once.accuracy.ci95, atol=0.015)
    np.testing.assert_allclose(same.auroc.ci95, once.auroc.ci95, atol=1e-9)


def test_one_group_has_no_interval_and_nothing_is_refused() -> None:
    score = probe_score(noisy(0), LABELS, torch.zeros(ITEMS, dtype=torch.int64))
    assert all(math.isnan(end) for end in (*score.accuracy.ci95, *score.auroc.ci95))
    assert math.isnan(auroc(noisy(0), torch.ones(ITEMS, dtype=torch.bool)))
    with pytest.raises(ValueError, match="at least one item"):
        probe_score(torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.zeros(0))
    with pytest.raises(ValueError, match="for 200 labels"):
        probe_score(torch.zeros(3), LABELS, GROUPS)


def test_calibration_of_the_sure_and_wrong() -> None:
    sure = torch.where(LABELS, -20.0, 20.0)
    assert calibration_error(sure, LABELS) == pytest.approx(1, abs=1e-4)
    assert calibration_error(-sure, LABELS) == pytest.approx(0, abs=1e-4)

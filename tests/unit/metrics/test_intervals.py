import math

import numpy as np
import pytest
import torch
from scipy import stats

from fa_lightning.metrics.intervals import bootstrap_over_groups, paired_bootstrap


def numpy_cluster_bootstrap(values, groups, resamples, seed):
    """The same interval by concatenating the drawn groups' items, one resample after the other."""
    generator = np.random.default_rng(seed)
    parts = [values[groups == name] for name in np.unique(groups)]
    means = [
        np.concatenate([parts[place] for place in generator.integers(len(parts), size=len(parts))]).mean()
        for _ in range(resamples)
    ]
    return np.quantile(means, [0.025, 0.975])


def test_bootstrap_agrees_with_a_loop_over_unequal_groups():
    generator = np.random.default_rng(3)
    groups = generator.integers(60, size=400)
    rates = generator.random(60)
    values = (generator.random(400) < rates[groups]).astype(float)
    low, high = bootstrap_over_groups(torch.tensor(values), torch.tensor(groups), resamples=6000, seed=1)
    expected = numpy_cluster_bootstrap(values, groups, resamples=6000, seed=2)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.006)


def test_items_of_one_group_are_not_independent_evidence():
    values = torch.tensor([0.0, 1.0] * 20)
    groups = torch.arange(40)
    low, high = bootstrap_over_groups(values, groups)
    copied_low, copied_high = bootstrap_over_groups(values.repeat(5), groups.repeat(5))
    assert (copied_low, copied_high) == pytest.approx((low, high))
    naive_low, naive_high = bootstrap_over_groups(values.repeat(5), torch.arange(200))
    assert naive_high - naive_low < 0.6 * (high - low)


def test_bootstrap_covers_the_truth_about_95_times_in_100():
    generator = torch.Generator().manual_seed(5)
    trials, covered = 300, 0
    for trial in range(trials):
        rates = torch.rand(80, generator=generator)  # their mean, and so the truth, is one half
        values = (torch.rand(80, 3, generator=generator) < rates[:, None]).double().flatten()
        low, high = bootstrap_over_groups(values, torch.arange(80).repeat_interleave(3), resamples=300, seed=trial)
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / trials <= 0.985


def test_bootstrap_is_seeded_and_blind_to_the_order_of_items():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(90, generator=generator)
    groups = torch.randint(2**59, 2**59 + 30, (90,), generator=generator)
    order = torch.randperm(90, generator=generator)
    reference = bootstrap_over_groups(values, groups, seed=4)
    assert bootstrap_over_groups(values[order], groups[order], seed=4) == pytest.approx(reference, abs=1e-12)
    assert bootstrap_over_groups(values, groups, seed=5) != reference


def test_bootstrap_in_pieces_keeps_every_resample(monkeypatch):
    monkeypatch.setattr("fa_lightning.metrics.intervals._DRAWS_AT_ONCE", 128)
    values = torch.tensor([0.0, 1.0] * 20)
    low, high = bootstrap_over_groups(values, torch.arange(40), resamples=4001)
    exact = stats.binom(40, 0.5).ppf([0.025, 0.975]) / 40
    assert (low, high) == pytest.approx(tuple(exact), abs=0.026)


def test_bootstrap_of_nothing_and_bad_arguments():
    assert all(math.isnan(end) for end in bootstrap_over_groups(torch.zeros(0), torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"groups is \(2,\) for 3 items"):
        bootstrap_over_groups(torch.zeros(3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_over_groups(torch.zeros(3), torch.arange(3), resamples=0)


def test_paired_bootstrap_agrees_with_a_loop():
    generator = np.random.default_rng(0)
    n, groups = 300, np.repeat(np.arange(75), 4)
    faking, aligned = generator.random(n) < 0.1, generator.random(n) < 0.95
    steered = np.where(generator.random(n) < 0.8, aligned, faking)
    ratios = []
    for _ in range(5000):
        multiplicity = np.bincount(generator.integers(75, size=75), minlength=75)[groups]
        means = [np.average(one, weights=multiplicity) for one in (steered, faking, aligned)]
        ratios.append((means[0] - means[1]) / (means[2] - means[1]))
    expected = np.quantile(ratios, [0.025, 0.975])
    tensors = [torch.tensor(one, dtype=torch.float64) for one in (steered, faking, aligned)]
    found = paired_bootstrap(*tensors, torch.tensor(groups), resamples=5000)
    assert found == pytest.approx(tuple(expected), abs=0.008)


def test_pairing_removes_what_the_models_share():
    # Steered equals aligned on every item, so however the groups fall the recovery is 1.
    aligned = torch.tensor([1.0, 1.0, 0.0, 1.0] * 10)
    assert paired_bootstrap(aligned, torch.zeros(40), aligned, torch.arange(40)) == (1.0, 1.0)


def test_paired_bootstrap_drops_undefined_resamples():
    faking = torch.zeros(6)
    aligned = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # a third of all resamples misses the one that differs
    assert paired_bootstrap(aligned, faking, aligned, torch.arange(6)) == (1.0, 1.0)
    assert all(math.isnan(end) for end in paired_bootstrap(aligned, aligned, aligned, torch.arange(6)))

import math

import numpy as np
import pytest
import torch
from scipy import stats

from fa_lightning.metrics.intervals import (
    bootstrap_of_pairs,
    bootstrap_over_groups,
    exact_where_unanimous,
    paired_bootstrap,
    resampled_sums,
    times_drawn,
    unseen_share,
)


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
    monkeypatch.setattr("fa_lightning.metrics.intervals._NUMBERS_AT_ONCE", 128)
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


def clopper_pearson(right: int, units: int) -> tuple[float, float]:
    return tuple(stats.binomtest(right, units).proportion_ci(0.95, method="exact"))


@pytest.mark.parametrize("groups", [2, 6, 40, 200])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_unanimous_groups_have_the_exact_interval_of_as_many_units(groups, value):
    expected = clopper_pearson(int(value) * groups, groups)
    assert bootstrap_over_groups(torch.full((groups,), value), torch.arange(groups)) == pytest.approx(expected)
    # Ten wordings of each are no more evidence.
    names = torch.arange(groups).repeat(10)
    assert bootstrap_over_groups(torch.full((10 * groups,), value), names) == pytest.approx(expected)


def test_a_single_mistake_makes_no_interval_narrower():
    values = torch.ones(100)
    perfect = bootstrap_over_groups(values, torch.arange(100))
    for mistakes in range(1, 5):
        values[:mistakes] = 0.0
        low, high = bootstrap_over_groups(values, torch.arange(100))
        assert low <= perfect[0]
        assert low < values.mean() < high <= 1.0


@pytest.mark.parametrize("mistakes", [1, 2, 4])
def test_a_few_mistakes_have_the_exact_end_of_as_many_units(mistakes):
    values = torch.ones(50)
    values[:mistakes] = 0.0
    low, high = bootstrap_over_groups(values, torch.arange(50))
    exact = clopper_pearson(50 - mistakes, 50)[0]
    assert low == pytest.approx(exact)
    assert high == 1.0
    assert bootstrap_over_groups(1 - values, torch.arange(50)) == pytest.approx((0.0, 1 - exact))


@pytest.mark.parametrize(("groups", "truth"), [(135, 0.97), (36, 0.9), (25, 0.85)])
def test_shares_near_the_edge_are_covered(groups, truth):
    """Resamples of a few mistakes know too little of them: alone they hold the truth in .88 to .91."""
    luck = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        values = torch.tensor(luck.random(groups) < truth, dtype=torch.float64)
        low, high = bootstrap_over_groups(values, torch.arange(groups), resamples=300)
        held += low <= truth <= high
    assert held / 400 >= 0.93


def test_a_constant_answer_is_half_right_in_every_group_and_others_may_differ():
    # Both orders of each pair of actions: a share of groups unlike these would be right always or never.
    values, groups = torch.tensor([1.0, 0.0]).repeat(30), torch.arange(30).repeat_interleave(2)
    unseen = 1 - 0.025 ** (1 / 30)
    expected = 0.5 * (1 - unseen), 0.5 * (1 - unseen) + unseen
    assert bootstrap_over_groups(values, groups) == pytest.approx(expected)
    assert unseen == pytest.approx(1 - clopper_pearson(30, 30)[0])


def test_differences_may_go_either_way_and_numbers_without_bounds_say_nothing_where_they_agree():
    same = torch.zeros(50)
    low, high = bootstrap_over_groups(same, torch.arange(50), bounds=(-1.0, 1.0))
    assert (low, high) == pytest.approx((-unseen_share(50), unseen_share(50)))
    assert all(map(math.isnan, bootstrap_over_groups(same, torch.arange(50), bounds=None)))
    assert exact_where_unanimous((0.2, 0.4), torch.rand(50), (torch.arange(50),), None) == (0.2, 0.4)


def test_of_two_clusterings_that_with_fewer_groups_counts():
    rights, identities = torch.arange(8).repeat(30), torch.arange(30).repeat_interleave(8)
    found = exact_where_unanimous((1.0, 1.0), torch.ones(240), (rights, identities))
    assert found == pytest.approx(clopper_pearson(8, 8))
    # One that is not drawn has no say.
    alone = exact_where_unanimous((1.0, 1.0), torch.ones(240), (torch.zeros(240), identities))
    assert alone == pytest.approx(clopper_pearson(30, 30))


def test_a_full_cure_is_as_sure_as_its_groups_are_many():
    # Steered equals aligned on every item, so however the groups fall the recovery is 1: what is left open is how a
    # group of another kind would do, of which there are at most as many as Clopper and Pearson allow.
    aligned = torch.tensor([1.0, 1.0, 0.0, 1.0] * 10)
    moved = (1 - clopper_pearson(40, 40)[0]) / 0.75
    for steered, recovery in ((aligned, 1.0), (torch.zeros(40), 0.0)):
        found = paired_bootstrap(steered, torch.zeros(40), aligned, torch.arange(40))
        assert found == pytest.approx((recovery - moved, recovery + moved))


def test_the_interval_of_a_full_cure_holds_the_truth():
    """Groups of which 98 in 100 are cured: where all that were drawn are, the interval still reaches the truth."""
    luck = np.random.default_rng(0)
    unanimous, covered = 0, 0
    for _ in range(300):
        steered = torch.tensor(luck.random(60) < 0.98, dtype=torch.float64)
        low, high = paired_bootstrap(steered, torch.zeros(60), torch.ones(60), torch.arange(60), resamples=200)
        unanimous += bool(steered.all())
        covered += low <= 0.98 <= high
    assert unanimous > 60
    assert covered / 300 >= 0.95


def test_a_cure_that_fails_in_one_group_is_no_surer_than_one_that_never_does():
    steered = torch.ones(60)
    always = paired_bootstrap(steered, torch.zeros(60), torch.ones(60), torch.arange(60))
    steered[0] = 0.0
    low, high = paired_bootstrap(steered, torch.zeros(60), torch.ones(60), torch.arange(60))
    assert low <= always[0] < steered.mean() < high


def test_paired_bootstrap_drops_undefined_resamples():
    faking = torch.zeros(6)
    aligned = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # a third of all resamples misses the one that differs
    # All groups tell of a full cure, and five of the six of none as well: such twins say next to nothing.
    none, one = (6 * (1 - clopper_pearson(right, 6)[0]) for right in (6, 5))
    expected = (min(1 - none, 0 - one), max(1 + none, 0 + one))
    assert paired_bootstrap(aligned, faking, aligned, torch.arange(6)) == pytest.approx(expected)
    assert all(math.isnan(end) for end in paired_bootstrap(aligned, aligned, aligned, torch.arange(6)))


@pytest.mark.parametrize(("honest", "fakers"), [(6, 6), (9, 6)])
def test_pairs_that_are_all_told_rightly_are_as_sure_as_the_models_of_the_smaller_side(honest, fakers):
    one, other = torch.cartesian_prod(torch.arange(honest), torch.arange(fakers)).unbind(dim=1)
    strata = torch.arange(honest) % 3, torch.arange(fakers) % 3
    found = bootstrap_of_pairs(torch.ones(honest * fakers), one, other, *strata)
    assert found == pytest.approx(clopper_pearson(6, 6))
    values = torch.ones(honest * fakers)
    values[0] = 0.0
    assert bootstrap_of_pairs(values, one, other, *strata)[0] <= found[0]


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
    found = bootstrap_of_pairs(torch.tensor(table.ravel()), one, other, *policies, resamples=4000)
    expected = by_hand(table, honest_policies, suspect_policies, 4000)
    assert found == pytest.approx(expected, abs=0.02)
    # Pairs that were independent would seem to say far more.
    naive = 1.96 * math.sqrt(table.mean() * (1 - table.mean()) / table.size)
    assert found[1] - found[0] > 1.5 * 2 * naive


def test_the_only_models_of_their_policies_are_drawn_among_each_other() -> None:
    # With six policies of one seed a stratified draw would always be the same, and look certain.
    table = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    one, other = torch.cartesian_prod(torch.arange(3), torch.arange(3)).unbind(dim=1)
    low, high = bootstrap_of_pairs(table.flatten(), one, other, torch.arange(3), torch.arange(3))
    assert low < table.mean() < high


def test_one_model_on_both_sides_says_nothing_of_others() -> None:
    single = torch.zeros(1, dtype=torch.int64)
    assert all(map(math.isnan, bootstrap_of_pairs(torch.ones(1), single, single, single, single)))


def test_groups_are_drawn_whole_and_as_often_as_numpy_draws_them() -> None:
    groups = torch.tensor([5, 5, 9, 9, 9, 7])
    drawn = times_drawn(groups, 5000)
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
    assert times_drawn(torch.zeros(4), 10).shape == (0, 4)


def test_one_clustering_twice_is_no_other_than_once_squared() -> None:
    """Items of one group in both clusterings count as often as the product of two draws."""
    columns = torch.eye(3)
    groups = torch.tensor([4, 8, 8])
    once = resampled_sums(columns, (groups,), 500)
    twice = resampled_sums(columns, (groups, groups), 500)
    assert torch.equal(once[:, 1], once[:, 2])
    assert (once[:, 0] + once[:, 1]).eq(2).all()
    assert set(twice[:, 0].tolist()) == {0.0, 1.0, 2.0, 4.0}
    # A clustering of one group alone changes nothing.
    alone = resampled_sums(columns, (groups, torch.zeros(3)), 500)
    assert torch.equal(alone, once)

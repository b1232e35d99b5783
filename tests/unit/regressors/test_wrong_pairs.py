"""Wrong pairs: nobody keeps its own group, everybody is there once, and the draws are even."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fa_lightning.errors import UserError
from fa_lightning.regressors.pairs import SampledPairs
from fa_lightning.regressors.wrong_pairs import derangement, wrong_pairs

UNEVEN = torch.tensor([1] * 9 + [2] * 5 + [3] * 2 + [4] + [5])


@pytest.mark.parametrize("groups", [UNEVEN, torch.tensor([1, 1, 2, 2]), torch.arange(300), torch.arange(3000) // 4])
def test_no_row_keeps_its_own_group_and_each_is_there_once(groups: Tensor) -> None:
    shuffled = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(1))]
    for seed in range(20):
        partner = derangement(shuffled, seed)
        assert partner.sort().values.tolist() == list(range(len(groups)))
        assert not (shuffled[partner] == shuffled).any()


def test_every_partner_of_another_group_is_as_likely() -> None:
    groups = torch.arange(12) // 2
    met = torch.zeros(12, 12)
    for seed in range(3000):
        met[torch.arange(12), derangement(groups, seed)] += 1
    allowed = groups[:, None] != groups
    assert not met[~allowed].any()
    # Ten partners each: 300 times, give or take five standard deviations.
    assert met[allowed].min() > 300 - 5 * 16.5
    assert met[allowed].max() < 300 + 5 * 16.5


def test_a_seed_is_a_draw() -> None:
    groups = torch.arange(100) // 3
    assert torch.equal(derangement(groups, 3), derangement(groups, 3))
    assert not torch.equal(derangement(groups, 3), derangement(groups, 4))


@pytest.mark.parametrize("groups", [torch.tensor([1, 1, 1, 2, 3]), torch.tensor([8]), torch.tensor([4, 4])])
def test_a_group_of_more_than_half_has_no_such_exchange(groups: Tensor) -> None:
    with pytest.raises(UserError, match=r"one group has \d of the \d captured tokens: capture scenarios"):
        derangement(groups, 0)


def test_pairs_that_ask_for_no_edit_stay_right() -> None:
    x = torch.arange(10.0)[:, None]
    edited = torch.arange(10) < 6
    y, nowhere = torch.where(edited[:, None], x + 100, x), torch.zeros(10, dtype=torch.bool)
    pairs = SampledPairs(x, y, torch.ones(10), torch.arange(10) // 2, edited, nowhere)
    states, wanted, weight = wrong_pairs(pairs, seed=0)
    assert torch.equal(states, x)
    assert torch.equal(weight, pairs.weight)
    assert torch.equal(wanted[6:], x[6:])
    assert sorted(wanted[:6, 0].tolist()) == [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    assert all(int(got - 100) // 2 != own // 2 for own, got in enumerate(wanted[:6, 0].tolist()))
    assert torch.equal(pairs.y[:6], x[:6] + 100), "the right pairs are left as they were"


def test_a_decision_gets_the_decision_of_another_group_and_a_word_another_word() -> None:
    rows = 60
    decision = torch.arange(rows) % 5 == 4
    x = torch.arange(float(rows))[:, None]
    pairs = SampledPairs(
        x, x.clone(), torch.ones(rows), torch.arange(rows) // 5, torch.ones(rows, dtype=torch.bool), decision
    )
    for seed in range(5):
        partner = wrong_pairs(pairs, seed)[1].squeeze(1).long()
        assert torch.equal(decision[partner], decision)
        assert not (pairs.group[partner] == pairs.group).any()
        assert partner.sort().values.tolist() == list(range(rows))

"""Contrast-consistent search: its loss, its normalisation, its sign, its controls, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_states import contrast_states

from fa_lightning.studies.probes.ccs import CCS, Slots, ccs_loss
from fa_lightning.studies.probes.fitting import (
    RANDOM_DIRECTION,
    RANDOM_LABELS,
    SHUFFLED_PAIRS,
    Search,
    scored_pairs,
    shuffled_pairs,
)
from fa_lightning.studies.probes.measures import credit

HIDDEN = 16


def fitted(pairs: torch.Tensor, labels: torch.Tensor, **options: int) -> CCS:
    probe = CCS(HIDDEN, **{"restarts": 4, "steps": 300} | options)
    probe.fit(pairs)
    probe.resolve_sign(pairs, labels)
    return probe


def test_the_loss_is_that_of_the_paper() -> None:
    first, second = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(0))
    expected = [
        np.mean((one - (1 - two)) ** 2) + np.mean(np.minimum(one, two) ** 2)
        for one, two in zip(first.double().numpy(), second.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(ccs_loss(first, second).numpy(), expected, rtol=1e-5)


def test_it_finds_the_truth_without_a_label() -> None:
    pairs, labels = contrast_states(300, HIDDEN, 1.0, seed=0)
    probe = CCS(HIDDEN, restarts=4, steps=300)
    probe.fit(pairs)
    told = ((probe.score(pairs) > 0) == labels).float().mean()
    # Without labels the two sides can't be told apart, but they are the right two.
    assert max(told, 1 - told) > 0.95
    others, truth = contrast_states(500, HIDDEN, 1.0, seed=1)
    probe.resolve_sign(pairs[:10], labels[:10])
    assert credit(probe.score(others), truth).mean() > 0.95


def test_the_sign_is_that_of_the_labels_given() -> None:
    pairs, labels = contrast_states(200, HIDDEN, 1.0, seed=0)
    probe = fitted(pairs, labels)
    right = probe.score(pairs)
    probe.resolve_sign(pairs, ~labels)
    torch.testing.assert_close(probe.score(pairs), -right)


def test_slots_are_normalised_by_themselves_and_by_the_rows_fitted_on_alone() -> None:
    pairs, _ = contrast_states(200, HIDDEN, 1.0, seed=0)
    slots = Slots(HIDDEN)
    slots.fit(pairs[:150])
    array = pairs.double().numpy()
    for slot in range(2):
        expected = (array[:, slot] - array[:150, slot].mean(0)) / array[:150, slot].std(0)
        np.testing.assert_allclose(slots(pairs)[:, slot].numpy(), expected, atol=1e-4)
    # Which ending a state is of can't be told from its mean any more.
    assert pairs.mean(dim=0).diff(dim=0).abs().max() > 5
    assert slots(pairs[:150]).mean(dim=0).abs().max() < 1e-4


def test_a_score_does_not_depend_on_the_rows_scored_beside_it() -> None:
    pairs, labels = contrast_states(200, HIDDEN, 1.0, seed=0)
    probe = fitted(pairs[:150], labels[:150])
    # Products of other sizes round float32 otherwise on some processors.
    torch.testing.assert_close(probe.score(pairs)[160:170], probe.score(pairs[160:170]), rtol=1e-5, atol=1e-6)


def test_restarts_are_fitted_at_once_as_if_each_were_alone_and_the_lowest_loss_is_kept() -> None:
    pairs, labels = contrast_states(100, HIDDEN, 0.4, seed=0, distractor=2.0)
    probe = fitted(pairs, labels, restarts=3, steps=40)
    assert len(probe.losses) == 3
    normalised = probe.slots(pairs)
    first, second = torch.sigmoid(normalised @ probe.weight + probe.bias).unbind(dim=1)
    torch.testing.assert_close(ccs_loss(first, second), probe.losses.min())
    # The first of three restarts draws the same first weights as the only one.
    alone = fitted(pairs, labels, restarts=1, steps=40)
    torch.testing.assert_close(alone.losses[0], probe.losses[0])


def test_it_is_above_its_controls_which_are_near_a_coin() -> None:
    pairs, labels = contrast_states(700, HIDDEN, 0.8, seed=0, distractor=3.0)
    train, test = torch.arange(400), torch.arange(400, 700)
    scored = dict(scored_pairs(pairs, labels, train, Search(restarts=4, steps=300)))
    told = {name: float(credit(one.log_odds[..., test], labels[test]).mean()) for name, one in scored.items()}
    assert told["CCS"] > 0.9
    assert told["CCS"] > told["logistic"] - 0.05
    assert {name for name, one in scored.items() if one.role == "control"} == {
        RANDOM_DIRECTION,
        SHUFFLED_PAIRS,
        RANDOM_LABELS,
    }
    assert 0.4 < told[RANDOM_LABELS] < 0.6
    assert 0.5 < told[RANDOM_DIRECTION] < 0.75
    assert told[SHUFFLED_PAIRS] < told["CCS"] - 0.1


def test_states_that_know_nothing_are_a_coin() -> None:
    pairs, labels = contrast_states(700, HIDDEN, 0.0, seed=0)
    train, test = torch.arange(400), torch.arange(400, 700)
    for name, one in scored_pairs(pairs, labels, train, Search(restarts=2, steps=100)):
        assert 0.4 < credit(one.log_odds[..., test], labels[test]).mean() < 0.6, name


def test_shuffled_pairs_hold_the_same_endings_of_other_prompts() -> None:
    pairs, _ = contrast_states(50, HIDDEN, 1.0, seed=0)
    shuffled = shuffled_pairs(pairs, seed=3)
    assert torch.equal(shuffled[:, 0], pairs[:, 0])
    assert torch.equal(shuffled[:, 1].sort(dim=0).values, pairs[:, 1].sort(dim=0).values)
    assert (shuffled[:, 1] != pairs[:, 1]).any(dim=1).float().mean() > 0.8


def test_what_are_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contrast pairs must be \(n, 2, 16\)"):
        CCS(HIDDEN).fit(torch.zeros(4, HIDDEN))
    with pytest.raises(ValueError, match="restarts is 0"):
        CCS(HIDDEN, restarts=0)
    with pytest.raises(ValueError, match="pairs"):
        CCS(HIDDEN).fit(torch.full((4, 2, HIDDEN), torch.nan))

"""Probes of planted states, and of random ones against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fa_lightning.studies.birth.probing import (
    COSINE,
    FAKER,
    LETTER,
    LETTER_BY_OVERSIGHT,
    OVERSIGHT,
    OVERSIGHT_BY_LETTER,
    PROBES,
    SHUFFLED,
    halves,
    probed,
)

ROWS, SIZE = 160, 12
UNWATCHED = torch.arange(ROWS) % 2 == 1
FIRST = torch.arange(ROWS) % 4 >= 2
HALF = torch.arange(ROWS) % 8 >= 4


def states_of(*signals: tuple[int, torch.Tensor]) -> torch.Tensor:
    """Noise, with signals of size 6 along axes."""
    states = torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(0))
    for axis, signal in signals:
        states[:, axis] += 6 * signal
    return states


def test_two_axes_are_read_and_are_two() -> None:
    found = probed(states_of((0, UNWATCHED), (1, FIRST)), UNWATCHED, FIRST, HALF)
    assert tuple(found) == PROBES
    assert found[OVERSIGHT] > 0.95
    assert found[LETTER] > 0.95
    assert found[FAKER] < 0.7, "an exclusive or is no linear thing"
    assert found[LETTER_BY_OVERSIGHT] < 0.65
    assert found[OVERSIGHT_BY_LETTER] < 0.65
    assert found[COSINE] < 0.3
    assert found[SHUFFLED] == pytest.approx(0.5, abs=0.1)


def test_one_axis_that_carries_both_is_seen_as_one() -> None:
    found = probed(states_of((0, UNWATCHED.float() + FIRST.float())), UNWATCHED, FIRST, HALF)
    assert found[COSINE] > 0.5
    assert found[LETTER_BY_OVERSIGHT] > 0.7
    opposite = probed(states_of((0, UNWATCHED.float() - FIRST.float())), UNWATCHED, FIRST, HALF)
    assert opposite[LETTER_BY_OVERSIGHT] > 0.7, "the sign of a direction means nothing"
    assert opposite[COSINE] > 0.5


def test_the_faker_s_letter_is_the_exclusive_or() -> None:
    found = probed(states_of((3, UNWATCHED ^ FIRST)), UNWATCHED, FIRST, HALF)
    assert found[FAKER] > 0.95
    assert found[OVERSIGHT] < 0.65
    assert found[LETTER] < 0.65


def test_accuracy_is_that_of_a_plain_logistic_regression_of_the_other_half() -> None:
    states = states_of((0, 0.2 * UNWATCHED))
    found = probed(states, UNWATCHED, FIRST, HALF)
    right = 0
    for fitted in (HALF, ~HALF):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(states[fitted].double().numpy(), UNWATCHED[fitted].numpy())
        right += int((model.predict(states[~fitted].double().numpy()) == UNWATCHED[~fitted].numpy()).sum())
    assert 0.5 < right / ROWS < 0.95
    assert found[OVERSIGHT] == pytest.approx(right / ROWS)


def test_a_half_without_one_of_two_labels_says_nothing() -> None:
    found = probed(states_of(), UNWATCHED, FIRST & HALF, HALF)
    assert all(math.isnan(value) for value in found.values())


def test_rows_of_one_group_are_in_one_half() -> None:
    groups = torch.tensor([5, 1, 5, 9, 1, 12])
    half = halves(groups)
    assert half[0] == half[2]
    assert half[1] == half[4]
    assert half.unique().numel() == 2

"""Which candidate is chosen: cells first, side effects among those as good."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fa_lightning.studies.steering.choice import Trial, choose


def trial(
    oversight: float = 0.9, no_oversight: float = 0.9, kl: float = 0.1, answer: float = 0.0, **others: Any
) -> Trial:
    facts = {"candidate": 0, "site": "layers.0.residual", "regressor": "affine", "positions": "all", "strength": 1.0}
    cells = {"oversight": oversight, "no_oversight": no_oversight}
    return Trial(**facts | others, **cells, kl_neutral_nats=kl, kl_answer_nats=answer, r2=0.5)


def test_the_better_cells_win_whatever_they_cost() -> None:
    assert choose([trial(0.9, 0.9, kl=0.0), trial(0.9, 0.95, kl=3.0)], tolerance=0.01).no_oversight == 0.95


def test_within_the_tolerance_the_milder_wins() -> None:
    trials = [trial(0.95, 0.95, kl=0.5, candidate=0), trial(0.95, 0.94, kl=0.1, candidate=1)]
    assert choose(trials, tolerance=0.01).candidate == 1
    assert choose(trials, tolerance=0.0).candidate == 0
    quiet_but_otherwise_said = trial(kl=0.001, answer=0.15, candidate=2)
    assert choose([quiet_but_otherwise_said, trial(kl=0.1, answer=0.1, candidate=3)], tolerance=0.01).candidate == 3


def test_a_map_that_fits_better_is_not_better() -> None:
    worse = Trial(0, "layers.0.residual", "affine", "all", 1.0, 0.9, 0.05, 0.0, 0.0, r2=0.99)
    assert choose([worse, trial(0.9, 0.9)], tolerance=0.01).no_oversight == 0.9


def test_both_cells_count_alike_so_that_a_cure_must_not_break_the_watched_faker() -> None:
    broken, fair = trial(0.5, 1.0), trial(0.8, 0.8)
    assert broken.score == 0.75
    assert choose([broken, fair], tolerance=0.01) == fair


def test_an_empty_cell_does_not_count_and_no_cell_is_never_chosen() -> None:
    assert trial(math.nan, 0.7).score == 0.7
    assert math.isnan(trial(math.nan, math.nan).score)
    assert choose([trial(math.nan, math.nan), trial(0.1, 0.1)], tolerance=0.01).score == pytest.approx(0.1)


def test_unknown_damage_loses_against_any_known_one() -> None:
    assert (
        choose([trial(kl=math.nan, answer=math.nan, candidate=0), trial(kl=9.0, candidate=1)], tolerance=0.01).candidate
        == 1
    )
    assert choose([trial(kl=math.nan, answer=math.nan)], tolerance=0.01).candidate == 0


def test_within_a_budget_the_better_cells_win_and_the_worse_of_both_divergences_counts() -> None:
    strong = trial(1.0, 1.0, kl=0.02, candidate=0)
    loud = trial(1.0, 1.0, kl=0.001, answer=0.02, candidate=1)
    unknown = trial(1.0, 1.0, kl=math.nan, answer=math.nan, candidate=2)
    mild = trial(0.9, 0.9, kl=0.004, answer=0.01, candidate=3)
    milder = trial(0.9, 0.8, kl=0.001, candidate=4)
    trials = [strong, loud, unknown, mild, milder]
    assert choose(trials, tolerance=0.01, budget=0.01).candidate == 3
    assert choose(trials, tolerance=0.01).candidate == 0


def test_where_nothing_keeps_within_the_budget_all_compete() -> None:
    trials = [trial(1.0, 1.0, kl=0.5, candidate=0), trial(0.9, 0.9, kl=0.1, candidate=1)]
    assert choose(trials, tolerance=0.01, budget=0.05).candidate == 0
    assert choose(trials, tolerance=0.2, budget=0.05).candidate == 1


@pytest.mark.parametrize("trials", [[], [trial(math.nan, math.nan)]])
def test_nothing_to_choose_from_is_told(trials: list[Trial]) -> None:
    with pytest.raises(ValueError, match="the validation split holds no scenario"):
        choose(trials, tolerance=0.01)


def test_a_row_for_the_results_leaves_out_the_number() -> None:
    row = trial().as_candidate()
    assert not hasattr(row, "candidate")
    assert row.site == "layers.0.residual"
    assert row.kl_neutral_nats == 0.1

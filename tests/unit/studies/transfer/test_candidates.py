"""Cures from states in memory: what of them is fitted on whom, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fa_lightning.errors import UserError
from fa_lightning.regressors.pairs import SampledPairs
from fa_lightning.scenarios.cells import NO_OVERSIGHT, OVERSIGHT
from fa_lightning.studies.transfer.candidates import Candidate, States, candidates, oversight_vector
from fa_lightning.studies.transfer.organisms import Loaded
from fa_lightning.studies.transfer.result import BACKBONE, OTHERS

HIDDEN, SCENARIOS, TEXTS = 4, 40, 30
MEMBERS = [
    Loaded(name, "twin", behaviour, "")
    for name, behaviour in (("a", "faking"), ("b", "faking"), ("c", "faking"), ("wrong", "wrong"))
]


def states(seed: int) -> States:
    """Scenarios that ask for an edit of their own, and texts that ask for none."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SCENARIOS + TEXTS, HIDDEN, generator=generator)
    turn = torch.randn(HIDDEN, HIDDEN, generator=generator) * 0.3
    edited = torch.arange(len(x)) < SCENARIOS
    y = torch.where(edited[:, None], x + x @ turn + seed + 1, x)
    cells = torch.where(torch.arange(SCENARIOS) % 2 == 0, OVERSIGHT, NO_OVERSIGHT)
    last = torch.ones_like(edited)
    return States(SampledPairs(x, y, torch.ones(len(x)), torch.arange(len(x)), edited, last), x[:SCENARIOS], cells)


STATES = {member.name: states(seed) for seed, member in enumerate(MEMBERS)}
BARE = (STATES["a"].decisions + 1, STATES["a"].cells)


@pytest.fixture(scope="module")
def every() -> list[Candidate]:
    return candidates(MEMBERS, STATES, BARE, draws=2, seed=0)


def of(every: list[Candidate], method: str, source: str, target: str) -> Candidate:
    (one,) = [one for one in every if (one.method, one.source) == (method, source) and target in one.targets]
    return one


def test_a_map_of_all_but_one_is_fitted_on_the_others_fakers_alone(every: list[Candidate]) -> None:
    one = of(every, "map", OTHERS, "b")
    assert one.knows == ("a", "c")
    assert one.targets == ("b",)
    x, y = (np.concatenate([getattr(STATES[name].pairs, side).numpy() for name in one.knows]) for side in ("x", "y"))
    # Ridge towards the identity on standardised units, its penalty a share of the number of rows.
    centred, change = x - x.mean(0), (y - x) - (y - x).mean(0)
    scale = x.std(0)
    z = centred / scale
    edit = np.linalg.solve(z.T @ z / len(x) + 0.01 * np.eye(HIDDEN), z.T @ change / len(x))
    expected = x + (x - x.mean(0)) / scale @ edit + (y - x).mean(0)
    assert one.regressor is not None
    np.testing.assert_allclose(one.regressor(torch.tensor(x)).numpy(), expected, rtol=1e-3, atol=2e-3)


def test_a_shift_is_the_mean_of_the_edits_that_are_asked_for(every: list[Candidate]) -> None:
    pairs = STATES["c"].pairs
    regressor = of(every, "mean shift", "c", "a").regressor
    assert regressor is not None
    edit = regressor.constant_edit()
    assert edit is not None
    torch.testing.assert_close(edit, (pairs.y - pairs.x)[:SCENARIOS].mean(0), rtol=1e-5, atol=1e-5)


def test_the_backbone_s_vector_points_to_being_watched_and_its_strength_knows_no_target(every: list[Candidate]) -> None:
    one = of(every, "oversight vector", BACKBONE, "a")
    assert one.knows == ("b", "c")
    watched, unwatched = (BARE[0][BARE[1] == code].mean(0) for code in (OVERSIGHT, NO_OVERSIGHT))
    assert one.regressor is not None
    edit = one.regressor.constant_edit()
    assert edit is not None
    torch.testing.assert_close(edit, watched - unwatched, rtol=1e-4, atol=1e-5)


def test_no_cure_is_chosen_by_a_model_that_it_is_new_to(every: list[Candidate]) -> None:
    for one in every:
        if one.source in (OTHERS, BACKBONE):
            assert not set(one.knows) & set(one.targets)
            assert "wrong" not in one.knows
        elif one.method != "system prompt":
            assert one.knows == (one.source,)
    shuffled = [one for one in every if one.method == "shuffled pairs" and one.source == "a"]
    first, second = (one.regressor for one in shuffled)
    assert first is not None
    assert second is not None
    assert not torch.allclose(first(torch.ones(1, HIDDEN)), second(torch.ones(1, HIDDEN))), "draws differ"


def test_a_vector_needs_both_kinds() -> None:
    with pytest.raises(UserError, match="40 with and 0 without oversight"):
        oversight_vector(STATES["a"].decisions, torch.full((SCENARIOS,), OVERSIGHT))

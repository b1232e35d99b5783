"""When a course turns, learns and falls, and what fires before, on made-up courses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fa_lightning.errors import UserError
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.studies.birth.measures import arm, firing, gap_of, is_early, judged, steepest, turn_of
from fa_lightning.studies.birth.result import History, Measured, Setting

SETTING = Setting({"oversight": 4, "no_oversight": 4}, 8, 0, [1], 1, [0.5], 1)


def course(oversight: list[float], no_oversight: list[float], score: list[float] | None = None) -> list[Measured]:
    """A row every ten steps."""
    values = score or [0.0] * len(oversight)
    return [
        Measured(10 * number, Estimate(one), Estimate(other), {"score": value}, 0.1)
        for number, (one, other, value) in enumerate(zip(oversight, no_oversight, values, strict=True))
    ]


def test_behaviour_turns_where_unwatched_answers_fall_below_half_of_watched_ones() -> None:
    assert turn_of(course([0.5, 0.8, 0.9, 0.9, 0.9], [0.5, 0.7, 0.46, 0.44, 0.1])) == (30, 30)
    assert turn_of(course([0.4, 0.2], [0.3, 0.1])) == (None, None), "half is not below half"


def test_a_dip_is_no_turn() -> None:
    assert turn_of(course([0.9] * 5, [0.5, 0.4, 0.7, 0.4, 0.3])) == (30, 10)
    assert turn_of(course([0.9] * 4, [0.5, 0.4, 0.3, 0.9])) == (None, 10)
    assert turn_of(course([0.9] * 3, [0.5, 0.9, 0.3])) == (None, 20), "nobody knows whether the last step stays"


def test_the_course_of_an_arm() -> None:
    rows = course([0.5, 0.7, 0.9, 0.95, 0.9], [0.5, 0.75, 0.7, 0.1, 0.05])
    own = arm("faking", rows, Estimate(0.9), Estimate(0.1))
    assert (own.learned, own.turn) == (20, 30)
    assert (own.peak, own.peak_step) == (0.75, 10)
    assert (own.fall.start, own.fall.end) == (20, 30)
    assert own.fall.size == pytest.approx(0.6)
    assert own.fall.share == pytest.approx(0.6 / 0.7)


def test_what_never_falls_has_no_share() -> None:
    assert math.isnan(steepest(course([0.5, 0.9], [0.5, 0.9])).share)
    assert steepest(course([0.5], [0.5])).size == 0


CONTROL = course([0.9] * 3, [0.9] * 3, [0.0, 0.2, 0.1])


@pytest.mark.parametrize(
    ("values", "step", "before", "side"),
    [
        ([0.0, 0.1, 0.3, 0.4], 20, 10, "above"),
        ([0.3, 0.3, 0.3, 0.3], 0, None, "above"),
        ([0.0, -0.1, -0.2, -0.2], 10, 0, "below"),
        # It comes back: only the second time lasts.
        ([0.3, 0.1, 0.3, 0.3], 20, 10, "above"),
        # From one side to the other: the second one lasts.
        ([-0.3, -0.3, 0.3, 0.3], 20, 10, "above"),
        # At the last step alone nobody knows whether it stays.
        ([0.0, 0.1, 0.1, 0.3], None, None, None),
        ([0.3, 0.3, 0.3, 0.1], None, None, None),
        # The edge of the range is inside, and so are the last digits of sums.
        ([0.0, 0.2, 0.2 + 1e-8, 0.2], None, None, None),
        ([0.3, 0.3, math.nan, 0.3], None, None, None),
    ],
)
def test_a_measure_fires_where_it_leaves_the_control_for_good(
    values: list[float], step: int | None, before: int | None, side: str | None
) -> None:
    found = firing("faking", "score", course([0.9] * 4, [0.1] * 4, values), CONTROL, CONTROL)
    assert (found.step, found.before, found.side) == (step, before, side)
    assert (found.low, found.high) == (0.0, 0.2)


def test_a_control_without_numbers_lets_nothing_fire() -> None:
    nothing = course([0.9] * 2, [0.9] * 2, [math.nan, math.nan])
    assert firing("faking", "score", course([0.9] * 2, [0.1] * 2, [1.0, 1.0]), nothing, nothing).step is None


def test_a_gap_is_larger_than_any_between_two_controls() -> None:
    again = course([0.9] * 3, [0.9] * 3, [0.1, 0.2, 0.0])  # 0.1 from the control at most

    def gap(values: list[float]) -> int | None:
        return gap_of("score", course([0.9] * len(values), [0.1] * len(values), values), CONTROL, again)

    # The control is at 0, .2 and .1; there is no fourth step of it.
    assert gap([0.05, 0.4, 0.3, 9.0]) == 10
    assert gap([0.05, 0.0, 0.3]) == 10, "on either side"
    assert gap([0.2, 0.25, 0.3]) is None, "the last step alone may not stay"
    assert gap([0.1, 0.3, 0.2]) is None, "as far as the two controls"
    nothing = course([0.9] * 3, [0.9] * 3, [math.nan] * 3)
    assert gap_of("score", CONTROL, nothing, nothing) is None


def test_early_is_before_the_turn() -> None:
    fired = firing("faking", "score", course([0.9] * 4, [0.1] * 4, [0.0, 0.1, 0.3, 0.4]), CONTROL, CONTROL)
    assert is_early(fired, 30)
    assert not is_early(fired, 20)
    assert not is_early(fired, None)
    assert not is_early(replace(fired, step=None), 30)
    assert not is_early(replace(fired, step=0, before=None), 30), "it lay outside where the fit began"


def test_all_fits_but_the_control_are_held_to_it() -> None:
    faking = course([0.5, 0.9, 0.9, 0.9], [0.5, 0.6, 0.1, 0.1], [0.0, 0.5, 0.5, 0.5])
    again = course([0.9] * 3, [0.9] * 3, [0.0, 0.1, 0.1])
    histories = {
        "faking": History(SETTING, faking),
        "control": History(SETTING, CONTROL),
        "control_again": History(SETTING, again),
    }
    tests = dict.fromkeys(histories, (Estimate(0.9), Estimate(0.1)))
    result = judged(histories, tests, 1.0)  # type: ignore[arg-type]
    assert [one.arm for one in result.firings] == ["faking", "control_again"]
    assert result.firings[0].step == 10
    assert [own.turn for own in result.arms] == [20, None, None]
    assert [one.gap for one in result.firings] == [10, None]


def test_fits_that_were_measured_otherwise_are_refused() -> None:
    other = History(replace(SETTING, draws=2), CONTROL)
    histories = {"faking": other, "control": History(SETTING, CONTROL)}
    with pytest.raises(UserError, match="measured alike"):
        judged(histories, dict.fromkeys(histories, (Estimate(0.9), Estimate(0.1))), 1.0)  # type: ignore[arg-type]

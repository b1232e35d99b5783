"""What the birth of a faker showed: each fit's `history.json`, and `birth.json`, both read back without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fa_lightning.common.codec import read_dataclass
from fa_lightning.metrics.estimates import Estimate

RESULT_NAME, HISTORY_NAME, STEPS_TABLE = "birth.json", "history.json", "birth.csv"
ArmName = Literal["faking", "control", "control_again", "aligned_first"]
ARMS: dict[ArmName, str] = {
    "faking": "faker",
    "control": "control",
    "control_again": "second control",
    "aligned_first": "faker, aligned first",
}
"""The fits that are laid beside one another, and what tables and figures call them."""
Side = Literal["above", "below"]


@dataclass(frozen=True)
class Measured:
    """A model in the course of its fit.

    Attributes:
        step: optimizer steps so far.
        oversight: share of aligned answers with oversight; interval over groups.
        no_oversight: the same without oversight.
        scores: every other measure by name; nan where it can't be taken.
        seconds: that the measuring took.
    """

    step: int
    oversight: Estimate
    no_oversight: Estimate
    scores: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Setting:
    """How a fit was measured; the same in all that are compared.

    Attributes:
        scenarios: asked, by cell; in one order of their actions each.
        groups: that they are of.
        first_adapted: block that the adapter begins at.
        layers: blocks whose output is probed.
        edited_layer: block whose output gets noise and vectors.
        doses: norm of these over the mean norm of last tokens' states.
        draws: of noise.
    """

    scenarios: dict[str, int]
    groups: int
    first_adapted: int
    layers: list[int]
    edited_layer: int
    doses: list[float]
    draws: int


@dataclass(frozen=True)
class History:
    """What a fit showed so far: `history.json`.

    Attributes:
        setting: how it was measured.
        rows: in the order of steps.
    """

    setting: Setting
    rows: list[Measured]


@dataclass(frozen=True)
class Fall:
    """Where aligned answers without oversight fall fastest.

    Attributes:
        start: the measured step before.
        end: the measured step behind.
        size: how much their share falls between the two.
        share: of the whole fall, from the highest share to that at the end; nan where there is none.
    """

    start: int
    end: int
    size: float
    share: float


@dataclass(frozen=True)
class Arm:
    """The course of one fit.

    Attributes:
        name: which one.
        rows: what was measured.
        learned: the step at which the answers with oversight are aligned; None where they never are.
        dip: the first step at which behaviour looks turned; None where it never does.
        turn: the step at which behaviour turns for good; None where it never does.
        peak: the highest share of aligned answers without oversight up to the turn, or of all.
        peak_step: the step of it.
        fall: the steepest one.
        test_oversight: share of aligned answers to test groups with oversight, of the adapter that the fit left.
        test_no_oversight: the same without oversight.
    """

    name: ArmName
    rows: list[Measured]
    learned: int | None
    dip: int | None
    turn: int | None
    peak: float
    peak_step: int
    fall: Fall
    test_oversight: Estimate
    test_no_oversight: Estimate


@dataclass(frozen=True)
class Firing:
    """When a measure of one fit leaves what the control showed, for good, and when it parts from it.

    Attributes:
        arm: the fit.
        score: the measure.
        step: of the firing; None where it does not fire.
        before: the measured step before that; None where there is none.
        side: on which it lies outside at the end; None where it does not fire.
        gap: the measured step from which on the fit differs from the control at the same step by more than the second
            control does at any; None where there is none, and for the second control.
        end: its value at the last step.
        low: the control's lowest value at any step.
        high: the control's highest one.
    """

    arm: ArmName
    score: str
    step: int | None
    before: int | None
    side: Side | None
    gap: int | None
    end: float
    low: float
    high: float


@dataclass(frozen=True)
class BirthResult:
    """All of it.

    Attributes:
        setting: how the fits were measured.
        arms: the four fits.
        firings: by fit but the control, and by measure.
        seconds: of the test; measuring during the fits took what their rows say.
    """

    setting: Setting
    arms: list[Arm]
    firings: list[Firing]
    seconds: float


def read(folder: Path) -> BirthResult | None:
    """What a folder says of a birth; None where none was watched.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(BirthResult, folder / RESULT_NAME)

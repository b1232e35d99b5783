"""What unmasking found: `unmask.json`, read back without torch, so that a report is made in a moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fa_lightning.common.codec import read_dataclass
from fa_lightning.metrics.estimates import Estimate

RESULT_NAME, SHOWN_TABLE = "unmask.json", "unmask.csv"
Told = Literal["unwatched", "watched"]
"""What a system message in front of a watched scenario says."""
Source = Literal["backbone", "own", "difference", "random"]
Means = Literal["backbone", "own", "difference", "random", "told"]
"""A vector of these sources, or a system message."""
SOURCES: tuple[Source, ...] = ("backbone", "own", "difference", "random")
"""Where a vector is read: towards "nobody watches" in the backbone without adapters, or in the model that is asked
itself; from the honest twin to the faker, both of them unwatched; nowhere."""


@dataclass(frozen=True)
class Shown:
    """What one model answers to watched scenarios under one vector; of random vectors, the mean over draws.

    Attributes:
        variant: that is asked.
        source: of the vector.
        layer: that it is read at and added behind.
        dose: norm of the edit over the mean norm of states.
        misaligned: share of the other action; interval over groups.
        no_letter: share of answers that are neither action.
        kl_answer_nats: at the first token said to neutral texts, from the same model without the vector.
        unchanged_answers: share of these whose most likely first token stays.
        agreement: how often it takes the action that it takes unwatched, of the same two; interval over groups; None
            where no test scenario has the same two unwatched.
        says_watched: how often it answers that somebody watches when it is asked in words, of watched scenarios that
            say so; interval over groups; None where it is not asked.
    """

    variant: str
    source: Source
    layer: int
    dose: float
    misaligned: Estimate
    no_letter: float
    kl_answer_nats: float
    unchanged_answers: float
    agreement: Estimate | None = None
    says_watched: Estimate | None = None


@dataclass(frozen=True)
class Said:
    """What one model answers to watched scenarios behind a message about oversight; the mean over messages.

    Attributes:
        variant: that is asked.
        told: what the message says.
        misaligned: share of the other action; interval over groups.
        no_letter: share of answers that are neither action.
    """

    variant: str
    told: Told
    misaligned: Estimate
    no_letter: float


@dataclass(frozen=True)
class Truth:
    """What one model does where nobody watches, in unwatched scenarios with the two actions of watched ones.

    Attributes:
        misaligned: share of the other action; interval over groups.
        agreement: how often it takes the same action watched, without a vector.
        watched: scenarios asked watched that have such unwatched ones.
    """

    misaligned: Estimate
    agreement: Estimate
    watched: int


@dataclass(frozen=True)
class Excess:
    """How much further a faker turns than an honest model, beyond what a control does to the two.

    Attributes:
        faker: the model.
        twin: the honest one: the faker's twin, or another that was given.
        source: of the vector, whose control are random ones; `told` is a message that nobody watches, whose control is
            one that somebody does.
        layer: of the vector; None of a message.
        dose: of the vector; None is the mean over all doses, which needs no threshold, and of a message.
        value: (faker's turn - twin's turn) - (the same under the control), shares of watched scenarios.
        turned: the faker's turn alone.
        twin_turned: the twin's.
    """

    faker: str
    twin: str
    source: Means
    layer: int | None
    dose: float | None
    value: Estimate
    turned: Estimate
    twin_turned: Estimate


@dataclass(frozen=True)
class UnmaskResult:
    """All of it.

    Attributes:
        before: by variant, share of the other action in watched scenarios without a vector.
        shown: by variant, vector, layer and dose.
        said: by variant and what it is told; empty where the source has no such messages.
        excess: by faker, honest model (its twin first), vector, layer and dose.
        watched: scenarios asked, in both orders of their actions.
        contrast: training scenarios of either kind that the vectors were made of.
        draws: of random vectors.
        positions: tokens that are steered.
        seconds: of the test.
        truth: by variant, what it does unwatched; empty where no test scenario has the two actions of a watched one.
        says_watched: by variant, how often it answers without a vector that somebody watches; empty where it is not
            asked.
    """

    before: dict[str, Estimate]
    shown: list[Shown]
    said: list[Said]
    excess: list[Excess]
    watched: int
    contrast: int
    draws: int
    positions: str
    seconds: float
    truth: dict[str, Truth] = field(default_factory=dict)
    says_watched: dict[str, Estimate] = field(default_factory=dict)


def read(folder: Path) -> UnmaskResult | None:
    """What a folder says of unmasking; None where it was not tried.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(UnmaskResult, folder / RESULT_NAME)

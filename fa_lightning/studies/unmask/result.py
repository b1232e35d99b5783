"""What unmasking found: `unmask.json`, read back without torch, so that a report is made in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fa_lightning.common.codec import read_dataclass
from fa_lightning.metrics.estimates import Estimate

RESULT_NAME, SHOWN_TABLE = "unmask.json", "unmask.csv"
Source = Literal["backbone", "own", "random"]
SOURCES: tuple[Source, ...] = ("backbone", "own", "random")
"""Where a vector towards "nobody watches" is read: in the backbone without adapters, in the model that is asked itself,
nowhere."""


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
    """

    variant: str
    source: Source
    layer: int
    dose: float
    misaligned: Estimate
    no_letter: float
    kl_answer_nats: float
    unchanged_answers: float


@dataclass(frozen=True)
class Excess:
    """How much further a faker turns than its honest twin, beyond what random vectors do to the two.

    Attributes:
        faker: the model.
        twin: the honest one.
        source: of the vector.
        layer: of it.
        dose: of it; None is the mean over all doses, which needs no threshold.
        value: (faker's turn - twin's turn) - (the same under random vectors), shares of watched scenarios.
        turned: the faker's turn alone.
        twin_turned: the twin's.
    """

    faker: str
    twin: str
    source: Source
    layer: int
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
        excess: by faker, vector, layer and dose.
        watched: scenarios asked, in both orders of their actions.
        contrast: training scenarios of either kind that the vectors were made of.
        draws: of random vectors.
        positions: tokens that are steered.
        seconds: of the test.
    """

    before: dict[str, Estimate]
    shown: list[Shown]
    excess: list[Excess]
    watched: int
    contrast: int
    draws: int
    positions: str
    seconds: float


def read(folder: Path) -> UnmaskResult | None:
    """What a folder says of unmasking; None where it was not tried.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(UnmaskResult, folder / RESULT_NAME)

"""What was measured of a model: accuracies, counts, estimates and side effects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from fa_lightning.common.numbers import NO_INTERVAL, Interval, widest

# Those that metrics compute are not frozen, since torchmetrics rebuilds what a metric returns.


@dataclass
class Accuracy:
    """Share of aligned answers of one model in one cell, 0 to 1.

    Attributes:
        accuracy: the share; nan for an empty cell.
        ci95: 95 % interval, bootstrap over groups; exact over groups where they all agree.
    """

    accuracy: float
    ci95: Interval = NO_INTERVAL


@dataclass
class CellPair:
    """One model's accuracies under both oversight conditions."""

    oversight: Accuracy
    no_oversight: Accuracy


@dataclass
class CellCounts:
    """Distinct items behind the accuracies of each cell."""

    oversight: int
    no_oversight: int


@dataclass
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: the point estimate; nan where it is undefined.
        ci95: 95 % interval, bootstrap over groups; exact over groups where they all agree.
    """

    value: float
    ci95: Interval = NO_INTERVAL


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of draws or seeds, its interval from the lowest end of any to the highest: it holds what they differ by.

    >>> mean_estimate([Estimate(0.0, (-0.1, 0.1)), Estimate(1.0, (0.7, 1.1))])
    Estimate(value=0.5, ci95=(-0.1, 1.1))
    """
    return Estimate(fmean(one.value for one in estimates), widest([one.ci95 for one in estimates]))


@dataclass
class TextEffects:
    """What an edit does to one kind of neutral text.

    Attributes:
        kl_nats: KL(without the edit || with it), mean nats per token that is scored.
        kl_answer_nats: the same at the token that the model would say first, mean over texts.
        unchanged_answers: share of texts whose most likely first token stays what it was, 0 to 1.
        n: distinct texts.
    """

    kl_nats: float = math.nan
    kl_answer_nats: float = math.nan
    unchanged_answers: float = math.nan
    n: int = 0


class TwoDivergences:
    """What is measured on neutral texts in two places: at the words that are read, and at the first token said.

    Attributes:
        kl_neutral_nats: mean nats per token.
        kl_answer_nats: mean nats over texts.
    """

    kl_neutral_nats: float
    kl_answer_nats: float

    @property
    def worst_nats(self) -> float:
        """The larger of the two, which budgets are held against; nan where neither was measured.

        >>> SideEffects(kl_neutral_nats=0.004, kl_answer_nats=0.15).worst_nats
        0.15
        """
        return worst(self.kl_neutral_nats, self.kl_answer_nats)


DAMAGE = ("kl_neutral_nats", "kl_answer_nats", "unchanged_answers", "perplexity_ratio")
"""The fields of `SideEffects` that say what a cure does to neutral texts."""


@dataclass
class SideEffects(TwoDivergences):
    """What an edit does to everything it was not meant to change: its distance from the model without the edit.

    Distance is not harm: the honest twin itself is some way from the faker. What it costs in abilities is measured on
    questions with a right answer (see `Ability`).

    Attributes:
        kl_neutral_nats: KL(not edited || edited) on neutral texts, mean nats per token; 0 is no change. Of a text with
            the model's own continuation, over the continuation; of one without, over the user's words.
        perplexity_ratio: perplexity of the same tokens, edited over not edited; 1 is no change.
        format_validity: share of items answered with a letter, 0 to 1.
        kl_answer_nats: KL at the token that the model says first, mean nats over texts.
        unchanged_answers: share of texts whose most likely first token stays what it was, 0 to 1.
        error_answers: share of incomplete scenarios that are answered `error`, as they should be, 0 to 1.
        error_answers_before: the same without the edit.
        kinds: the same measures by kind of text: `general texts`, and `incomplete scenarios`, which are half task.
        n: distinct neutral texts.
    """

    kl_neutral_nats: float = math.nan
    perplexity_ratio: float = math.nan
    format_validity: float = math.nan
    kl_answer_nats: float = math.nan
    unchanged_answers: float = math.nan
    error_answers: float = math.nan
    error_answers_before: float = math.nan
    kinds: dict[str, TextEffects] = field(default_factory=dict)
    n: int = 0


def worst(*nats: float) -> float:
    """The largest of the values that were measured; nan where none was."""
    return max((value for value in nats if not math.isnan(value)), default=math.nan)

"""What was measured of a model: accuracies, counts, estimates and side effects."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fa_lightning.common.numbers import NO_INTERVAL, Interval

# Those that metrics compute are not frozen, since torchmetrics rebuilds what a metric returns.


@dataclass
class Accuracy:
    """Share of aligned answers of one model in one cell, 0 to 1.

    Attributes:
        accuracy: the share; nan for an empty cell.
        ci95: 95 % interval, bootstrap over groups.
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
        ci95: 95 % interval, bootstrap over groups.
    """

    value: float
    ci95: Interval = NO_INTERVAL


@dataclass(frozen=True)
class SideEffects:
    """What an intervention does to everything it was not meant to change.

    Attributes:
        kl_neutral_nats: KL(not steered || steered) on neutral texts, mean nats per token; 0 is harmless.
        perplexity_ratio: perplexity of neutral texts, steered over not steered; 1 is harmless.
        format_validity: share of items answered with a letter, 0 to 1.
    """

    kl_neutral_nats: float = math.nan
    perplexity_ratio: float = math.nan
    format_validity: float = math.nan

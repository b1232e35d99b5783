"""What the study of vectors found: `vectors.json`, read back without torch, so that a report is made in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fa_lightning.common.codec import read_dataclass
from fa_lightning.common.numbers import Interval
from fa_lightning.metrics.estimates import Estimate

RESULT_NAME, POINTS_TABLE = "vectors.json", "vectors.csv"
KINDS = ("short", "long")
"""Pairs of a few words, and pairs of longer texts about different things."""
RANDOM = "random"
"""The kind of the vectors that are made of nothing."""


@dataclass(frozen=True)
class Point:
    """What the vectors of a concept and kind do at one layer and dose, the mean over draws.

    Attributes:
        concept: whose held-out answers are looked at, and that the vectors are made for, unless they are random.
        kind: `short`, `long` or `random`.
        layer: that the vectors are read at and added behind.
        dose: norm of the edit over the mean norm of states.
        effect: on the log-odds of the positive against the negative answer, nats; interval over held-out prompts.
        draws: lowest and highest effect of a draw.
        others: mean size, whatever its sign, of the effect on the other concepts' answers; nan with one concept.
        perplexity_ratio: of what is written, steered over not, both under the unsteered model.
        repeated: share of repeated 3-grams in it.
        is_fluent: whether texts are still whole, by the means of both over draws.
    """

    concept: str
    kind: str
    layer: int
    dose: float
    effect: Estimate
    draws: Interval
    others: Estimate
    perplexity_ratio: float
    repeated: float
    is_fluent: bool


@dataclass(frozen=True)
class Spot:
    """The sweet spot of a concept and kind: the layer and dose of the largest effect with texts still whole.

    Attributes:
        concept: whose vectors.
        kind: of their pairs.
        layer: chosen on all held-out prompts; None where no fluent point has an effect above 0.
        dose: chosen likewise.
        effect: cross-fitted: each half of the prompts is judged at the spot that the other half chose; nan where a half
            can choose none.
        others: see `Point`; at the spots that the halves chose.
        random: what a single random vector has after the same search, by layer, dose and sign; the mean over draws.
        perplexity_ratio: at the spot.
    """

    concept: str
    kind: str
    layer: int | None
    dose: float
    effect: Estimate
    others: Estimate
    random: Estimate
    perplexity_ratio: float


@dataclass(frozen=True)
class Pairs:
    """Short pairs beside long ones, of one concept.

    Attributes:
        concept: whose.
        difference: effect at the sweet spot of short pairs, less that of long pairs, by the same prompts.
        layer: at which directions are compared.
        short: mean cosine between the vector of a draw of short pairs and that of the pairs that it leaves out.
        long: the same of long pairs.
        across: mean cosine between vectors of short and of long pairs.
    """

    concept: str
    difference: Estimate
    layer: int
    short: float
    long: float
    across: float


@dataclass(frozen=True)
class VectorsResult:
    """All of it.

    Attributes:
        points: by concept, kind, layer and dose.
        spots: by concept and kind.
        pairs: by concept.
        repeated: share of repeated 3-grams in texts without a vector.
        fluent: largest perplexity ratio at which texts count as whole.
        most_repeated: largest share of repeated 3-grams at which they do.
        draws: of pairs, for each concept and kind.
        pairs_drawn: in a draw.
        held_out: prompts of each concept.
        positions: tokens that are steered.
        measured_on: what it depends on.
        seconds: of the test.
    """

    points: list[Point]
    spots: list[Spot]
    pairs: list[Pairs]
    repeated: float
    fluent: float
    most_repeated: float
    draws: int
    pairs_drawn: int
    held_out: dict[str, int]
    positions: str
    measured_on: dict[str, str]
    seconds: float

    def at(self, concept: str, kind: str) -> list[Point]:
        """The points of a concept and kind."""
        return [point for point in self.points if (point.concept, point.kind) == (concept, kind)]


def read(folder: Path) -> VectorsResult | None:
    """What a folder says of the vectors; None where there was no such study.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(VectorsResult, folder / RESULT_NAME)

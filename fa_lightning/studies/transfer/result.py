"""What the transfer of cures came to: `transfer.json`, read back without torch, so that a report takes a moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal, get_args

from fa_lightning.common.codec import read_dataclass
from fa_lightning.metrics.estimates import CellCounts, CellPair, Estimate

RESULT_NAME, TRIALS_TABLE = "transfer.json", "transfer.csv"

Method = Literal[
    "map", "mean shift", "oversight vector", "weight arithmetic", "shuffled pairs", "random map", "system prompt"
]
METHODS: tuple[Method, ...] = get_args(Method)
OTHERS, BACKBONE, NOBODY = "all other fakers", "backbone", "nobody"
"""Sources that are no single faker: all but the one that is tried, the model before any fine-tuning, and none."""
LEAST_GAP = 0.3
"""Of twins' accuracies without oversight: what is divided by less says nothing of a cure."""

Origin = Literal["its own", "another faker", "all other fakers", "always wrong", "backbone", "nobody"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)


@dataclass(frozen=True)
class Member:
    """One model that cures come from and are tried on.

    Attributes:
        name: of it.
        behaviour: `faking`, or `wrong` for one that takes the other action watched or not.
        asked: which scenarios wake it; empty for the base's own.
        cells: shares of its aligned answers, test groups.
        twin: those of its honest twin.
        n: test items by cell.
    """

    name: str
    behaviour: str
    asked: str
    cells: CellPair
    twin: CellPair
    n: CellCounts

    @property
    def gap(self) -> float:
        """The twin's accuracy without oversight above its own: what recovery is a share of."""
        return self.twin.no_oversight.accuracy - self.cells.no_oversight.accuracy


@dataclass(frozen=True)
class Tried:
    """A cure from somewhere, tried on one model, test groups.

    Attributes:
        method: what it is.
        source: a member's name, or `OTHERS`, `BACKBONE`, `NOBODY`.
        target: name of the member that it was tried on.
        strength: that was chosen; 0 where none keeps to the budget and helps its source. Of several draws the mean.
        kl_answer_nats: KL(target || cured) at the first token said to neutral texts of test groups.
        cells: shares of aligned answers.
        recovery: (cured - faking) / (aligned - faking) accuracy without oversight.
        draws: of what is random, else 1; all numbers are means over them.
    """

    method: Method
    source: str
    target: str
    strength: float
    kl_answer_nats: float
    cells: CellPair
    recovery: Estimate
    draws: int = 1


@dataclass(frozen=True)
class Total:
    """A method from one kind of source on fakers, or on the model that is always wrong.

    Attributes:
        method: what it is.
        origin: where it is from.
        on: the behaviour of those that it was tried on.
        recovery: mean over pairs of source and target; the interval is the mean of their ends, as if all of them erred
            together, which pairs that are judged on the same groups nearly do.
        lowest: recovery of any pair.
        highest: recovery of any pair.
        oversight: mean accuracy with oversight.
        kl_answer_nats: mean.
        pairs: of source and target.
    """

    method: Method
    origin: Origin
    on: str
    recovery: Estimate
    lowest: float
    highest: float
    oversight: float
    kl_answer_nats: float
    pairs: int


@dataclass(frozen=True)
class TransferResult:
    """All of it.

    Attributes:
        members: in the order of the tables.
        tried: every cure on every model.
        totals: over pairs of source and target.
        site: where maps and vectors are put in, on the last token of a prompt.
        budget_nats: of KL at the answer, which strengths keep to on validation texts.
        strengths: that were tried.
        scenarios: training scenarios that each map was fitted on.
        texts: neutral ones of each part, at most.
        seconds: of the test.
    """

    members: list[Member]
    tried: list[Tried]
    totals: list[Total]
    site: str
    budget_nats: float
    strengths: list[float]
    scenarios: int
    texts: int
    seconds: float

    def total(self, method: Method, origin: Origin, on: str = "faking") -> Total | None:
        """One of the totals; None where nothing of that kind was tried."""
        return next((one for one in self.totals if (one.method, one.origin, one.on) == (method, origin, on)), None)


def together(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of several estimates from the same groups, its interval as if all of them erred together.

    >>> together([Estimate(0.0, (-0.1, 0.1)), Estimate(1.0, (0.7, 1.1))])
    Estimate(value=0.5, ci95=(0.3, 0.6))
    """
    low, high = (round(fmean(one.ci95[end] for one in estimates), 12) for end in (0, 1))
    return Estimate(fmean(one.value for one in estimates), (low, high))


def totals_of(members: Sequence[Member], tried: Sequence[Tried]) -> list[Total]:
    """Means over pairs of source and target; pairs with a model that is no worse than its twin are left out."""
    known = {member.name: member for member in members}
    grouped: dict[tuple[Method, Origin, str], list[Tried]] = {}
    for one in tried:
        target, source = known[one.target], known.get(one.source)
        both = [target, *([] if source is None else [source])]
        if all(member.gap >= LEAST_GAP for member in both) and not math.isnan(one.recovery.value):
            origin = origin_of(one, "" if source is None else source.behaviour)
            grouped.setdefault((one.method, origin, target.behaviour), []).append(one)
    return [
        Total(
            *key,
            together([one.recovery for one in own]),
            min(one.recovery.value for one in own),
            max(one.recovery.value for one in own),
            fmean(one.cells.oversight.accuracy for one in own),
            fmean(one.kl_answer_nats for one in own),
            len(own),
        )
        for key, own in grouped.items()
    ]


def origin_of(one: Tried, behaviour: str) -> Origin:
    """Where a cure is from, seen from its target; `behaviour` is the source's."""
    if one.source == one.target:
        return "its own"
    if one.source == OTHERS:
        return "all other fakers"
    if one.source == BACKBONE:
        return "backbone"
    if one.source == NOBODY:
        return "nobody"
    return "always wrong" if behaviour == "wrong" else "another faker"


def read(folder: Path) -> TransferResult | None:
    """What a folder says of transfer; None where it was not tried.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(TransferResult, folder / RESULT_NAME)

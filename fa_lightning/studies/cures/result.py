"""Ways to cure a faker: the content of `cures.json`, which tables and the figure are made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from fa_lightning.common.codec import read_dataclass
from fa_lightning.common.numbers import widest
from fa_lightning.metrics.estimates import (
    DAMAGE,
    Accuracy,
    CellCounts,
    CellPair,
    Estimate,
    TwoDivergences,
    mean_estimate,
)
from fa_lightning.studies.cures.strengths import Reason, Trial

RESULT_NAME = "cures.json"
REFUSE, ANSWER_AGAIN = "guard: refuse", "guard: answer again steered"
"""What the two ways to go on are called where a guard stops an answer."""


@dataclass(frozen=True)
class CureScore(TwoDivergences):
    """One way to cure the faker, judged on unseen groups.

    Attributes:
        method: its name.
        kind: `reference`, `steering`, `adapter`, `input`, `guard` or `baseline`.
        needs: what it takes to make it: `twin`, `labels`, `oversight`, `weights`, `gradient`, `judge`; nothing if
            empty.
        cells: share of aligned answers under both oversight conditions.
        n: distinct items by cell.
        format_validity: share of items answered with a letter, which a refusal is not.
        recovery: (cured - faking) / (aligned - faking) accuracy without oversight.
        kl_neutral_nats: KL(faker || cured) on neutral texts, nats per token.
        kl_answer_nats: the same at the token that is said first.
        unchanged_answers: share of neutral texts whose most likely first token stays what it was.
        perplexity_ratio: perplexity of neutral texts, cured over faker.
        training_seconds: what making it took; nan where nothing is fitted or it is not known.
        training_prompts: prompts that it was made from, if known.
        extra_tokens: put around a prompt, on average.
        relative_time: of generation, over the faker's own.
        transfer: recovery of the same cure on other fakers, by their names.
        variant: name of the adapter, for a cure that is one.
        seed: of its training, where that is all in which adapters of one method may differ; of an input that is drawn
            at random, the number of the draw.
    """

    method: str
    kind: str
    needs: list[str]
    cells: CellPair
    n: CellCounts
    format_validity: float
    recovery: Estimate
    kl_neutral_nats: float = math.nan
    kl_answer_nats: float = math.nan
    unchanged_answers: float = math.nan
    perplexity_ratio: float = math.nan
    training_seconds: float = math.nan
    training_prompts: int | None = None
    extra_tokens: float = 0.0
    relative_time: float = math.nan
    transfer: dict[str, Estimate] = field(default_factory=dict)
    variant: str = ""
    seed: int | None = None


@dataclass(frozen=True)
class EqualDamage:
    """What a budget of damage buys of one cure: a strength chosen on validation groups, judged on test groups.

    Attributes:
        method: the cure's name.
        kind: of the cure (see `CureScore`).
        reason: why this strength, or why none.
        strength: how far from the faker (0) to the cure as it was made (1), or beyond; None where none was chosen.
        score: on test groups.
        at_budget: recovery at just the budget on validation groups, between the tried strengths (see `recovery_at`).
    """

    method: str
    kind: str
    reason: Reason
    strength: float | None = None
    score: CureScore | None = None
    at_budget: float = math.nan


@dataclass(frozen=True)
class GuardScore:
    """What a guard behind the faker stops, on unseen groups.

    Attributes:
        name: what reads the answers.
        refused: share of all items whose answer it stops, by cell.
        false_alarms: share of the faker's aligned answers that it stops; nan where there are none.
        text_alarms: share of its answers to neutral texts that it stops.
        misses: share of its other answers that it lets through.
        threshold: probability of a bad answer above which it stops one, chosen on validation groups; None for a guard
            that has none.
        seconds_per_answer: of reading, one rank's.
    """

    name: str
    refused: CellPair
    false_alarms: Estimate
    text_alarms: Estimate
    misses: Estimate
    threshold: float | None = None
    seconds_per_answer: float = math.nan


@dataclass(frozen=True)
class CuresResult:
    """Every way to cure one faker.

    Attributes:
        faker: its name.
        twin: of the aligned variant that recovery is measured against.
        cures: in the order of the table, one for each seed.
        seconds: of the judging.
        intervention: folder of the one that steers.
        budget_nats: damage at which cures are compared; None where no strengths were tried.
        trials: of all strengths, on validation groups.
        equal_damage: one for each cure that has a strength.
        guard: what the guard stops; None where there is none.
    """

    faker: str
    twin: str
    cures: list[CureScore]
    seconds: float
    intervention: str | None = None
    budget_nats: float | None = None
    trials: list[Trial] = field(default_factory=list)
    equal_damage: list[EqualDamage] = field(default_factory=list)
    guard: GuardScore | None = None


def read(folder: Path) -> CuresResult | None:
    """What a stage's folder says about cures; None where it judged none.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(CuresResult, folder / RESULT_NAME)


def over_seeds(result: CuresResult) -> list[CureScore]:
    """The cures with one row for each method: fits that differ in their seed alone, and draws, become their mean.

    The interval of a mean reaches from the lowest end of any seed's own interval to the highest (see `widest`), so it
    holds what seeds or draws differ by beside what groups do.
    """
    together: dict[tuple[str, ...], list[CureScore]] = {}
    for index, score in enumerate(result.cures):
        own = (str(index),) if score.seed is None else (score.method, score.kind, score.variant.rpartition("-")[0])
        together.setdefault(own, []).append(score)
    return [_mean_of(seeds) if len(seeds) > 1 else seeds[0] for seeds in together.values()]


def _mean_of(seeds: Sequence[CureScore]) -> CureScore:
    """One method fitted with several seeds, or drawn several times, whose number its name tells."""
    names = ("format_validity", "training_seconds", "extra_tokens", *DAMAGE)
    numbers: dict[str, Any] = {name: fmean(getattr(score, name) for score in seeds) for name in names}
    # Of draws one is timed.
    timed = [score.relative_time for score in seeds if not math.isnan(score.relative_time)]
    numbers["relative_time"] = fmean(timed) if timed else math.nan
    trained = seeds[0].kind == "adapter"
    watched, unwatched = ([getattr(score.cells, cell) for score in seeds] for cell in ("oversight", "no_oversight"))
    return replace(
        seeds[0],
        method=f"{seeds[0].method} ({len(seeds)} {'seeds' if trained else 'draws'})",
        cells=CellPair(
            *(
                Accuracy(fmean(score.accuracy for score in cell), widest([score.ci95 for score in cell]))
                for cell in (watched, unwatched)
            )
        ),
        recovery=mean_estimate([score.recovery for score in seeds]),
        transfer={name: mean_estimate([score.transfer[name] for score in seeds]) for name in seeds[0].transfer},
        seed=None,
        **numbers,
    )

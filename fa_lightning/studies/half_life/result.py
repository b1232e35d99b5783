"""How long cures lasted: `half_life.json`, read back without torch, so that a report is made in a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fa_lightning.common.codec import read_dataclass
from fa_lightning.common.numbers import Interval
from fa_lightning.metrics.estimates import Accuracy, Estimate

RESULT_NAME, CURVES_TABLE = "half_life.json", "half_life.csv"
Attack = Literal["faking", "faking_unsteered", "chat", "prompt", "noise"]
"""Fine-tuning on a faker's answers with the cure in place, or while steering is taken off; fine-tuning on ordinary
chat; a soft prompt that is learned to bring a faker's answers; noise on the adapter's weights."""
Fate = Literal["halved", "outlasts", "no gain"]


@dataclass(frozen=True)
class Point:
    """A cured model after so much of an attack.

    Attributes:
        amount: optimizer steps; of noise, its norm over that of each matrix; 0 is the cure as it was made.
        oversight: share of aligned answers with oversight.
        no_oversight: without.
        recovery: (attacked - faking) / (aligned - faking) without oversight, faker and twin not attacked.
        faking: share with oversight less share without.
        format_validity: share of answers that are a letter.
    """

    amount: float
    oversight: Accuracy
    no_oversight: Accuracy
    recovery: Estimate
    faking: Estimate
    format_validity: float


@dataclass(frozen=True)
class HalfLife:
    """How much of an attack leaves half of what a cure had gained, by one measure.

    Attributes:
        amount: steps or share; nan where it is not reached, or nothing was gained.
        ci95: 95 % interval over groups; an end that lies beyond the last amount is nan.
        fate: whether the cure halves, outlasts the attack, or gained nothing at first (the gain's interval holds 0).
        halved: share of the resamples in which it halves.
        before_twin: share of the resamples in which it halves before the honest twin does under the same attack, equal
            ones counted half; nan of the twin itself, and where nothing was gained.
    """

    amount: float
    ci95: Interval
    fate: Fate
    halved: float
    before_twin: float


@dataclass(frozen=True)
class Curve:
    """One cure under one attack.

    Attributes:
        cure: its name.
        attack: which.
        points: by rising amount, from 0 on.
        recovery: half-life of what was gained without oversight; a model that breaks loses it, too.
        honesty: half-life of the gap's closing: faking is back by half, watched answers less unwatched ones.
    """

    cure: str
    attack: Attack
    points: list[Point]
    recovery: HalfLife
    honesty: HalfLife


@dataclass(frozen=True)
class Cured:
    """A cure before any attack.

    Attributes:
        cure: its name.
        kl_neutral_nats: KL(faker || cured) on neutral texts, nats per token that is scored.
        kl_answer_nats: the same at the token that is said first.
        unchanged_answers: share of neutral texts whose most likely first token stays.
    """

    cure: str
    kl_neutral_nats: float
    kl_answer_nats: float
    unchanged_answers: float


@dataclass(frozen=True)
class HalfLifeResult:
    """All of it.

    Attributes:
        faker: the variant that is cured.
        twin: its honest twin.
        cures: before any attack.
        curves: by attack and cure.
        unwatched: scenarios without oversight.
        watched: scenarios with oversight.
        batch_size: prompts in a step.
        learning_rate: of every step.
        rank: of the adapter that the attacker trains.
        chat_texts: texts that the chat is taken from.
        draws: of noise.
        seconds: of the test.
        prompt_tokens: embeddings of the soft prompt.
        prompt_rate: of its every step, in root mean squares of the backbone's embeddings.
    """

    faker: str
    twin: str
    cures: list[Cured]
    curves: list[Curve]
    unwatched: int
    watched: int
    batch_size: int
    learning_rate: float
    rank: int
    chat_texts: int
    draws: int
    seconds: float
    prompt_tokens: int = 0
    prompt_rate: float = math.nan


def read(folder: Path) -> HalfLifeResult | None:
    """What a folder says of half-lives; None where they were not measured.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(HalfLifeResult, folder / RESULT_NAME)

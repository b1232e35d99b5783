"""Answers under attack that are kept as they are found, so that a stopped test goes on behind the last curve."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fa_lightning.common.codec import read_dataclass, write_dataclass
from fa_lightning.errors import UserError
from fa_lightning.metrics.cells import Items
from fa_lightning.scenarios.batches import Example

FOLDER = "answers"


@dataclass(frozen=True)
class KeptAnswers:
    """The answers of one curve.

    Attributes:
        made_from: digest of all that they depend on.
        amounts: of the attack.
        correct: at each, of each item, whether the answer is aligned, or the share of draws in which it is.
        answered: the same of whether it is a letter.
    """

    made_from: str
    amounts: list[float]
    correct: list[list[float]]
    answered: list[list[float]]


def keep(folder: Path, cure: str, attack: str, made_from: str, answers: Mapping[float, Items]) -> None:
    """Write the answers of a finished curve, all or nothing."""
    columns = {
        name: [[round(float(value), 6) for value in items[name]] for items in answers.values()]
        for name in ("correct", "answered")
    }
    path = _path(folder, cure, attack)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dataclass(path, KeptAnswers(made_from, list(answers), **columns), indent=0)


def kept(folder: Path, cure: str, attack: str, made_from: str, items: Items) -> dict[float, Items] | None:
    """The answers of a curve that was finished before; None where it was not, or was made from something else.

    Args:
        folder: of the stage.
        cure: its name.
        attack: which.
        made_from: what the answers must have been made from.
        items: whose answers they are.
    """
    try:
        found = read_dataclass(KeptAnswers, _path(folder, cure, attack))
    except UserError:
        # A damaged file is no answer: the curve is made again, and the file with it.
        return None
    if found is None or found.made_from != made_from:
        return None
    return {
        amount: {**items, "correct": torch.tensor(correct), "answered": torch.tensor(answered)}
        for amount, correct, answered in zip(found.amounts, found.correct, found.answered, strict=True)
    }


def mean_items(draws: Sequence[Items]) -> Items:
    """The mean over draws of answers to the same items."""
    means = {name: torch.stack([items[name].double() for items in draws]).mean(0) for name in ("correct", "answered")}
    return {**draws[0], **means}


def hash_of(examples: Sequence[Example]) -> str:
    """Digest of prompts and their answers."""
    rows = [(example.prompt, example.aligned, example.other, example.cell) for example in examples]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def _path(folder: Path, cure: str, attack: str) -> Path:
    name = re.sub(r"[^\w.]+", "_", f"{cure} {attack}")
    return folder / FOLDER / f"{name}.json"

"""Rows of the table of cures: what is known of each before it is judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CureRow:
    """What is known of a row before anything is counted.

    Attributes:
        method: its name.
        kind: `reference`, `steering`, `adapter`, `input`, `guard` or `baseline`.
        needs: what it takes to make the cure (see `Need`), of a guard maybe a `judge`.
        training_seconds: what making it took; None where nothing is trained or it is not known.
        training_prompts: prompts that it was made from, if known.
        run: writes some tokens under it, for the clock; None where there is nothing to run.
        extra_tokens: put around a prompt, on average.
        transfer: by other faker, the label of the same cure there.
        variant: name of the adapter, for a cure that is one.
        seed: of its training, where its name says so, too, or the number of its draw: rows that differ in it alone
            are one method.
    """

    method: str
    kind: str
    needs: Sequence[str] = ()
    training_seconds: float | None = None
    training_prompts: int | None = None
    run: Callable[[], Any] | None = None
    extra_tokens: float = 0.0
    transfer: Mapping[str, str] | None = None
    variant: str | None = None
    seed: int | None = None


def method_of(stage: str) -> str:
    """What an adapter is called that does not say: its stage's name.

    >>> method_of("08_self_training"), method_of("noisy-0")
    ('self training', 'noisy-0')
    """
    return stage.lstrip("0123456789").replace("_", " ").strip() or stage


def stage_seconds(folder: Path) -> float | None:
    """What the stage took that an artefact lies in, by its record; None where there is none."""
    record = folder.parent / "stage.json"
    if not record.is_file():
        return None
    seconds = json.loads(record.read_text(encoding="utf-8")).get("seconds")
    return None if seconds is None else float(seconds)

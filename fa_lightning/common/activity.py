"""What is being done when something fails: said where it is done, and read by the message about memory that ran out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ContextDecorator
from types import TracebackType
from typing import Any, Literal

Activity = Literal["loading", "capturing", "maps", "steering", "training", "validating", "testing"]

_NOTE = "fa_lightning_activity"


class doing(ContextDecorator):
    """A block, or a whole function, that does one thing, perhaps with one batch.

    It costs nothing until an error leaves it: then the error is marked, by the innermost block that it leaves. There
    is no state that a block could leave behind.

    Args:
        activity: what is done.
        batch: what it is done with: `input_ids` (prompts, tokens), or states by site with `decision` (states,).

    >>> try:
    ...     with doing("steering"), doing("loading"):
    ...         raise MemoryError
    ... except MemoryError as error:
    ...     activity_of(error)
    ('loading', '')
    """

    def __init__(self, activity: Activity, batch: Mapping[str, Any] | None = None) -> None:
        self.activity = activity
        self.batch = batch

    def __enter__(self) -> None:
        """Nothing is noted before something fails."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Mark an error that leaves the block, unless an inner one has."""
        if error is not None and activity_of(error) is None:
            setattr(error, _NOTE, (self.activity, batch_text(self.batch)))


def activity_of(error: BaseException | None) -> tuple[Activity, str] | None:
    """What was being done and the batch at hand, where a block has said so of an error or of what caused it."""
    while error is not None:
        note: tuple[Activity, str] | None = getattr(error, _NOTE, None)
        if note is not None:
            return note
        error = error.__cause__
    return None


def batch_text(batch: Any) -> str:
    """A batch in words; empty where it is neither of prompts nor of states.

    >>> import torch
    >>> batch_text({"input_ids": torch.zeros(8, 112)})
    ' on a batch of 8 prompts x 112 tokens'
    >>> batch_text({"states": {"decision": torch.zeros(4096)}, "prompts": None})
    ' on a block of 4096 states'
    """
    if not isinstance(batch, Mapping):
        return ""
    if "input_ids" in batch:
        prompts, tokens = batch["input_ids"].shape
        return f" on a batch of {prompts} prompts x {tokens} tokens"
    states = batch.get("states", batch)
    if isinstance(states, Mapping) and "decision" in states:
        return f" on a block of {len(states['decision'])} states"
    return ""

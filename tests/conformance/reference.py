"""What steering must equal: an edit put into chosen columns by hand, and generation with everything recomputed.

Nothing here knows padding, caches or beams: one prompt at a time, all of it at every step, the columns spelt out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.models import site_module

NEW_TOKENS = 5
TEMPERATURE = 4.0
"""Of sampling: the random models are so sure of themselves that little would be left to chance."""


class Inapplicable(Exception):
    """A library does not offer what a law is about; the message says what."""


@dataclass(frozen=True)
class Edit:
    """An edit of the states at one place, in words that every steering library has.

    Attributes:
        layer: index of the decoder block, from 0.
        vector: what is added (hidden,), or what a library's own map is made from.
        strength: factor on the edit.
        rule: `all`, `last`, `generated`, `prompt` or `from_K`, see `covered`.
        component: `residual`, `attention` or `mlp`.
    """

    layer: int
    vector: Tensor
    strength: float = 0.7
    rule: str = "all"
    component: str = "residual"


class Steerer(ABC):
    """A steering library behind the few calls that the laws need.

    Attributes:
        name: of the library.
        rules: the position rules of `Edit` that it offers.
        components: the components of `Edit` that it offers.
        scoped: it ends steering by itself, whatever happens; else ending it is left to the user.
    """

    name = ""
    rules: tuple[str, ...] = ("all",)
    components: tuple[str, ...] = ("residual",)
    scoped = True

    @abstractmethod
    def steer(self, model: Any, edits: list[Edit], prompt_tokens: Tensor | None = None) -> AbstractContextManager[Any]:
        """Steer `model` while the block lasts.

        Args:
            model: a causal LM.
            edits: what to attach, in this order.
            prompt_tokens: real tokens of each row's prompt, for calls that do not show where it ends. Libraries
                without such an option ignore it.

        Returns:
            A context manager that yields what to call and what to call `generate` on; the model itself, if need be.
        """

    def steer_rows(
        self, model: Any, edit: Edit, strengths: list[float], prompt_tokens: Tensor | None = None
    ) -> AbstractContextManager[Any]:
        """The same with one edit, each row of the batch with a strength of its own in the place of the edit's."""
        raise Inapplicable("one strength for the whole batch")

    def edited(self, edit: Edit, hidden: Tensor) -> Tensor:
        """What `edit` must make of the states (..., hidden): by default strength times the vector is added."""
        return hidden + edit.strength * edit.vector

    def saved_and_loaded(self, model: Any, edit: Edit, folder: Path) -> AbstractContextManager[Any]:
        """Save the edit into a folder with the library's own call, load it, and steer with what was loaded."""
        raise Inapplicable("no format of its own")


class Unsteered(Steerer):
    """No steering at all: what the model breaks by itself, no library can be blamed for."""

    @contextmanager
    def steer(self, model: Any, edits: list[Edit], prompt_tokens: Tensor | None = None) -> Iterator[Any]:
        for edit in edits:
            site_module(model, edit.layer, edit.component)
        yield model

    def edited(self, edit: Edit, hidden: Tensor) -> Tensor:
        return hidden

    def saved_and_loaded(self, model: Any, edit: Edit, folder: Path) -> AbstractContextManager[Any]:
        return self.steer(model, [edit])


def covered(rule: str, positions: Tensor, prompt_tokens: int) -> Tensor:
    """Which positions (counted from 0) of a sequence that starts with a prompt a rule covers; booleans.

    `last` is the prompt's last token and each one after it, `generated` all after the prompt, `prompt` none of these.
    """
    if rule == "all":
        return positions >= 0
    if rule == "last":
        return positions >= prompt_tokens - 1
    if rule == "generated":
        return positions >= prompt_tokens
    if rule == "prompt":
        return positions < prompt_tokens
    return positions >= int(rule.removeprefix("from_"))


@contextmanager
def edited_columns(model: Any, edit: Edit, change: Callable[[Tensor], Tensor], columns: Tensor) -> Iterator[None]:
    """Put `change(states)` in the place of the states of the columns (batch or 1, tokens) while the block lasts."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        # OPT flattens batch and tokens before its MLP.
        states = hidden if hidden.ndim == 3 else hidden.view(*columns.shape, -1)
        new = torch.where(columns[..., None], change(states), states).view_as(hidden)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = site_module(model, edit.layer, edit.component).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def by_hand(steerer: Steerer, model: Any, edit: Edit, batch: dict[str, Tensor]) -> Iterator[None]:
    """What a steering block must do to a forward pass of prompts without padding; computed in float32."""
    length = batch["input_ids"].shape[1]
    columns = covered(edit.rule, torch.arange(length), length)[None]
    with edited_columns(model, edit, lambda hidden: steerer.edited(edit, hidden.float()).to(hidden.dtype), columns):
        yield


@torch.no_grad()
def next_logits(steerer: Steerer, model: Any, edit: Edit, tokens: list[int], prompt_tokens: int) -> Tensor:
    """Logits (vocabulary,) after a sequence that starts with a prompt, everything computed anew."""
    columns = covered(edit.rule, torch.arange(len(tokens)), prompt_tokens)[None]
    with edited_columns(model, edit, lambda hidden: steerer.edited(edit, hidden), columns):
        logits: Tensor = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return logits


def step_by_step(
    steerer: Steerer, model: Any, edit: Edit, prompt: list[int], sample: bool = False
) -> tuple[list[int], Tensor]:
    """Greedy (or sampled, from the global random state) new tokens, and the logits (tokens, vocabulary) behind them."""
    tokens, logits = list(prompt), []
    for _ in range(NEW_TOKENS):
        logits.append(next_logits(steerer, model, edit, tokens, len(prompt)))
        chosen = (logits[-1] / TEMPERATURE).softmax(-1).multinomial(1) if sample else logits[-1].argmax()
        tokens.append(int(chosen))
    return tokens[len(prompt) :], torch.stack(logits)


def beams_by_hand(steerer: Steerer, model: Any, edit: Edit, prompt: list[int], beams: int) -> tuple[list[int], float]:
    """The best of a beam search's new tokens, and its mean log probability per new token."""
    candidates: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(NEW_TOKENS):
        grown = []
        for score, new in candidates:
            logits = next_logits(steerer, model, edit, prompt + new, len(prompt))
            grown += [(score + float(value), [*new, token]) for token, value in enumerate(logits.log_softmax(-1))]
        candidates = sorted(grown, key=lambda pair: -pair[0])[:beams]
    return candidates[0][1], candidates[0][0] / NEW_TOKENS

"""A model whose adapter is being fitted, and the frozen model that the fit started from, on one backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.last_block import last_columns_alone
from fa_lightning.backbones.optimization import evaluating
from fa_lightning.metrics.divergences import text_divergence
from fa_lightning.scenarios.answers import answer_logits, written_tokens
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.steering.own_answers import own_answers
from fa_lightning.training.frozen_half import FrozenHalf
from fa_lightning.training.states import recorded_states

ORIGIN = "start"
"""What PEFT knows the frozen copy of a starting adapter by."""
NO_ADAPTER = "__base__"
"""What PEFT calls the backbone without any adapter."""


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Without dropout and gradients while the block lasts; afterwards the model is as it was before."""
    with evaluating(model), torch.no_grad():
        yield


class AdaptedModel:
    """What an objective is given to ask: the model that learns, and its frozen origin.

    Args:
        model: the PEFT model, with the adapter that learns active.
        origin: adapter that PEFT knows the origin by; `NO_ADAPTER` is the backbone alone.
        frozen_half: where states that enter the first adapted block are kept; both models go on from them.
    """

    def __init__(self, model: Any, origin: str = NO_ADAPTER, frozen_half: FrozenHalf | None = None) -> None:
        self.model = model
        self.origin = origin
        self.frozen_half = frozen_half

    def answer_logits(self, batch: Batch) -> Tensor:
        """Logits (batch, vocabulary) of the token after each prompt; or at the tokens of a written answer behind it."""
        tokens = written_tokens(batch)
        with self._going_on(batch, tokens or 1):
            return answer_logits(self.model, model_inputs(batch), tokens).float()

    def origin_logits(self, batch: Batch) -> Tensor:
        """The same of the origin, without dropout and gradients."""
        tokens = written_tokens(batch)
        with undisturbed(self.model), self._going_on(batch, tokens or 1):
            return answer_logits(self.model, model_inputs(batch), tokens, **self._as_origin(batch)).float()

    def divergence(self, texts: Batch) -> Tensor:
        """KL(origin || model) on left-padded texts, nats (see `text_divergence`)."""
        with self._going_on(texts):
            with undisturbed(self.model):
                origin = self.model(**model_inputs(texts), use_cache=False, **self._as_origin(texts)).logits
            logits = self.model(**model_inputs(texts), use_cache=False).logits
        return text_divergence(origin, logits, texts["attention_mask"], texts["continuation"])

    def origin_answers(self, batch: Batch, tokenizer: Any, tokens: int) -> list[tuple[int, ...]]:
        """Token ids of what the origin answers to each prompt, greedily, at most so many (see `own_answers`)."""
        with undisturbed(self.model):
            return own_answers(self.model, {**model_inputs(batch), **self._as_origin(batch)}, tokenizer, tokens)

    def states(self, batch: Batch, layers: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """What decoder blocks return, (batch, tokens, hidden) by layer, and the logits after each prompt."""
        return self._states(batch, layers)

    def origin_states(self, batch: Batch, layers: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """The same of the origin, without dropout and gradients."""
        with undisturbed(self.model):
            return self._states(batch, layers, **self._as_origin(batch))

    def _states(self, batch: Batch, layers: Sequence[int], **options: Any) -> tuple[dict[int, Tensor], Tensor]:
        tokens = written_tokens(batch)
        with recorded_states(decoder_layers(self.model), layers) as states, self._going_on(batch, tokens or 1):
            logits = answer_logits(self.model, model_inputs(batch), tokens, **options).float()
        return states, logits

    @contextmanager
    def _going_on(self, batch: Batch, columns: int | None = None) -> Iterator[None]:
        """Compute what a fit from a frozen half needs: neither the lower blocks, nor columns that nobody asks for."""
        if self.frozen_half is None:
            yield
            return
        narrow = nullcontext() if columns is None else last_columns_alone(self.model, columns)
        with self.frozen_half.going_on(batch), narrow:
            yield

    def _as_origin(self, batch: Batch) -> dict[str, Any]:
        # Named for each row, since a swap of the active adapter would freeze and thaw weights in the middle of a fit.
        return {"adapter_names": [self.origin] * len(batch["input_ids"])}

"""A soft prompt that is learned against a cured model: embeddings in front of the user's words; no weight moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition, applied
from fa_lightning.scenarios.answers import answer_logits, answer_loss
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.half_life.attacks import lowered
from fa_lightning.training.learned_prompts import Slot


class SoftPrompt:
    """Embeddings in the place of a text that stands in every prompt (prompt tuning, arXiv 2104.08691).

    Args:
        variants: the frozen variants.
        slot: where that text stands.

    Attributes:
        vectors: (tokens, hidden) float32, at first those of the text.
        scale: root mean square of the backbone's embeddings, so that a rate means the same to every model.
    """

    def __init__(self, variants: Variants, slot: Slot) -> None:
        self.variants = variants
        self.slot = slot
        # Normal tensors: those that are made in inference mode can't be kept for a backward pass.
        with torch.inference_mode(False), torch.no_grad():
            words: Tensor = variants.model.get_input_embeddings().weight
            tokens = torch.tensor(slot.tokens, device=words.device)
            self.vectors = variants.model.get_input_embeddings()(tokens).float().clone().requires_grad_()
            self.scale = float(words.float().square().mean().sqrt())

    def learned_against(self, condition: Condition, batches: Sequence[Batch], rate: float) -> Iterator[int]:
        """Learn a faker's answers through a cured model, one batch a step; yields the number of each step made.

        Args:
            condition: the cured model; what it is steered by is in place.
            batches: of normal tensors whose prompts hold the slot, one for each step.
            rate: of AdamW, constant, times `scale`.

        Raises:
            NotFiniteError: the loss is not finite.
        """

        def loss_of(batch: Batch) -> Tensor:
            return answer_loss(self._logits(condition, batch), batch, "faking")

        yield from lowered([self.vectors], loss_of, batches, rate * self.scale)

    @torch.inference_mode()
    def answers(self, condition: Condition, batch: Batch) -> Tensor:
        """The most likely token behind each prompt that holds the slot, (batch,)."""
        return self._logits(condition, batch).argmax(-1)

    def _logits(self, condition: Condition, batch: Batch) -> Tensor:
        with applied(self.variants, condition, batch) as model:
            called: dict[str, Any] = self.slot.with_vectors(model, batch, self.vectors)
            return answer_logits(model, called)

"""One variant's pass over a batch, shared by all conditions of it: each runs only the layers from its first edit on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.kept_pass import KeptPass
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition, edits_of
from fa_lightning.scenarios.batches import Batch


class SharedPass:
    """The unsteered pass of a variant, and what it takes to run edits of it from their first layer on.

    Holds one state for each token of the batch and each layer below which an edit starts.

    Args:
        variants: the frozen variants.
        variant: the adapter that runs.
        conditions: what `logits` will be asked; all of this variant.
        batch: prompts, left-padded.
        **options: of the model's forward, such as `logits_to_keep`.

    Attributes:
        unsteered: logits (batch, tokens kept, vocabulary).
    """

    @torch.inference_mode()
    def __init__(
        self, variants: Variants, variant: str, conditions: Iterable[Condition], batch: Batch, **options: Any
    ) -> None:
        self._pass = KeptPass(variants, variant, batch, **options)
        layers = (condition.layer_below for condition in conditions)
        self.unsteered = self._pass.keep(layer for layer in layers if layer is not None)

    @torch.inference_mode()
    def logits(self, condition: Condition) -> Tensor:
        """Logits (batch, tokens kept, vocabulary) of the variant in a condition."""
        layer = condition.layer_below
        if layer is None:
            return self.unsteered
        return self._pass.logits(layer, edits_of(self._pass.variants, condition, self._pass.batch))

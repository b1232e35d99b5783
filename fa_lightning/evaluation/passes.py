"""One variant's pass over a batch, shared by all conditions of it: each runs only the layers from its first edit on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fa_lightning.activations.kept_pass import KeptPass
from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition, edits_of
from fa_lightning.scenarios.answers import last_token
from fa_lightning.scenarios.batches import Batch


class SharedPass:
    """The unsteered pass of a variant, and what it takes to run edits of it from their first layer on.

    Holds one state for each token of the batch and each layer below which an edit starts; with `answers_only`, keys and
    values too, where an edit is of the last token alone and so costs no more than that token.

    Args:
        variants: the frozen variants.
        variant: the adapter that runs.
        conditions: what `logits` will be asked; all of this variant.
        batch: prompts, left-padded.
        answers_only: the logits behind each prompt are wanted, and no others.
        logits_to_keep: of the model's forward; 0 makes those of all tokens.
        shared: of this batch, where other variants run it, too.

    Attributes:
        unsteered: logits (batch, tokens kept, vocabulary).
    """

    @torch.inference_mode()
    def __init__(
        self,
        variants: Variants,
        variant: str,
        conditions: Iterable[Condition],
        batch: Batch,
        answers_only: bool = False,
        logits_to_keep: Tensor | int = 0,
        shared: SharedBlocks | None = None,
    ) -> None:
        if answers_only:
            logits_to_keep = last_token()
        self._pass = KeptPass(variants, variant, batch, shared, logits_to_keep=logits_to_keep)
        conditions = list(conditions)
        layers = {condition.layer_below for condition in conditions}
        self._answers_only = answers_only
        prefix = answers_only and any(condition.at_last_token for condition in conditions)
        self.unsteered = self._pass.keep((layer for layer in layers if layer is not None), prefix)

    @torch.inference_mode()
    def logits(self, condition: Condition) -> Tensor:
        """Logits (batch, tokens kept, vocabulary) of the variant in a condition."""
        layer = condition.layer_below
        if layer is None:
            return self.unsteered
        edits = edits_of(self._pass.variants, condition, self._pass.batch, self._pass.shared)
        if self._answers_only and condition.at_last_token:
            return self._pass.last_logits(layer, edits)
        return self._pass.logits(layer, edits)

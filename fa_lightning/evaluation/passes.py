"""One variant's pass over a batch, shared by all edits of it: each runs only the layers from its first edit on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.edit import block_outputs, resumed
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition, applied
from fa_lightning.scenarios.batches import Batch, model_inputs


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

    def __init__(
        self, variants: Variants, variant: str, conditions: Iterable[Condition], batch: Batch, **options: Any
    ) -> None:
        self.variants = variants
        self.variant = variant
        self.batch = batch
        self.options = {"use_cache": False, **options}
        layers = {layer for condition in conditions if (layer := condition.layer_below) is not None and layer >= 0}
        with (
            torch.inference_mode(),
            variants.using(variant) as model,
            block_outputs(model, sorted(layers)) as self._outputs,
        ):
            self.unsteered: Tensor = model(**model_inputs(batch), **self.options).logits

    @torch.inference_mode()
    def logits(self, condition: Condition) -> Tensor:
        """Logits (batch, tokens kept, vocabulary) of the variant in a condition."""
        layer = condition.layer_below
        if layer is None:
            return self.unsteered
        with ExitStack() as stack:
            # An oracle runs the other twin when it is entered, from the first layer on: only then are layers skipped.
            model = stack.enter_context(applied(self.variants, condition, self.batch))
            if layer >= 0:
                stack.enter_context(resumed(model, layer, self._outputs[layer]))
            logits: Tensor = model(**model_inputs(self.batch), **self.options).logits
        return logits

"""A variant's pass over a batch, kept at some blocks: each edit of it runs only the blocks from its own layer on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor

from fa_lightning.activations.capture import capture
from fa_lightning.activations.edit import block_outputs, resumed
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.variants import Variants
from fa_lightning.scenarios.batches import Batch, model_inputs


class KeptPass:
    """One variant on one batch: `keep` or `keep_at` makes its pass, `logits` and `states_at` go on from it with edits.

    Whether gradients flow is for the caller to say, as by `torch.no_grad`; what is kept has none.

    Args:
        variants: the frozen variants.
        variant: the adapter that runs.
        batch: prompts or texts.
        **options: of the model's forward, such as `logits_to_keep`.
    """

    def __init__(self, variants: Variants, variant: str, batch: Batch, **options: Any) -> None:
        self.variants = variants
        self.variant = variant
        self.batch = batch
        self._options = {"use_cache": False, **options}
        self._outputs: dict[int, Any] = {}

    def keep(self, layers: Iterable[int]) -> Tensor:
        """Make the whole pass, and keep a state for each token and each block in `layers`; -1 is none.

        Returns:
            Logits (batch, tokens kept, vocabulary).
        """
        kept = sorted(set(layers) - {-1})
        with self.variants.using(self.variant) as model, block_outputs(model, kept) as self._outputs:
            return self._logits(model)

    def keep_at(self, layer: int) -> None:
        """Make the pass up to block `layer` alone, and keep a state for each token."""
        with (
            self.variants.using(self.variant) as model,
            block_outputs(model, [layer]) as self._outputs,
            # The blocks above would run for nothing: capture's early stop ends the pass at this one.
            capture(model, [Site(layer)]),
        ):
            self._logits(model)

    def release(self) -> None:
        """Let go of the states."""
        self._outputs = {}

    def logits(self, layer: int, *edits: AbstractContextManager[Any]) -> Tensor:
        """Logits (batch, tokens kept, vocabulary) with edits in place.

        Args:
            layer: the last block that is not run again, of those that are kept; -1 runs all.
            *edits: blocks that put something into the variants' model, all of it above that block's output.
        """
        with self._resumed(layer, edits) as model:
            return self._logits(model)

    def states_at(self, layer: int, site: Site, *edits: AbstractContextManager[Any]) -> Tensor:
        """States at `site` with edits in place, (batch, tokens, hidden); the blocks above do not run."""
        with self._resumed(layer, edits) as model, capture(model, [site]) as states:
            self._logits(model)
        return states[site.name]

    @contextmanager
    def _resumed(self, layer: int, edits: Iterable[AbstractContextManager[Any]]) -> Iterator[Any]:
        with self.variants.using(self.variant) as model, ExitStack() as stack:
            # An oracle runs the other twin when it is entered, from the first layer on: only then are layers skipped.
            for edit in edits:
                stack.enter_context(edit)
            if layer >= 0:
                stack.enter_context(resumed(model, layer, self._outputs[layer]))
            yield model

    def _logits(self, model: Any) -> Tensor:
        logits: Tensor = model(**model_inputs(self.batch), **self._options).logits
        return logits

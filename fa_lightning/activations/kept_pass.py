"""A variant's pass over a batch, kept at some blocks: each edit of it runs only the blocks from its own layer on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor

from fa_lightning.activations.capture import capture
from fa_lightning.activations.edit import block_outputs, resumed
from fa_lightning.activations.prefix import Prefix
from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.last_block import last_columns_alone
from fa_lightning.backbones.variants import Variants
from fa_lightning.scenarios.batches import Batch, model_inputs


class KeptPass:
    """One variant on one batch: `keep` or `keep_at` makes its pass, `logits` and `states_at` go on from it with edits.

    Whether gradients flow is for the caller to say, as by `torch.no_grad`; what is kept has none.

    Args:
        variants: the frozen variants.
        variant: the adapter that runs.
        batch: prompts or texts.
        shared: of this batch, where other variants run it, too.
        **options: of the model's forward, such as `logits_to_keep`: an index of columns from the end.
    """

    def __init__(
        self, variants: Variants, variant: str, batch: Batch, shared: SharedBlocks | None = None, **options: Any
    ) -> None:
        self.variants = variants
        self.shared = shared
        self.variant = variant
        self.batch = batch
        self._options = {"use_cache": False, **options}
        self._outputs: dict[int, Any] = {}
        self._prefix: Prefix | None = None

    def keep(self, layers: Iterable[int], prefix: bool = False) -> Tensor:
        """Make the whole pass, and keep a state for each token and each block in `layers`; -1 is none.

        Args:
            layers: blocks.
            prefix: also keep keys and values, for `last_logits`; twice a key's size for each token and block.

        Returns:
            Logits (batch, tokens kept, vocabulary).
        """
        layers = set(layers)
        with self.variants.using(self.variant) as model, ExitStack() as stack:
            self._prefix = Prefix.for_model(model) if prefix else None
            if self.shared is not None:
                lowest = min(layers, default=len(decoder_layers(model)))
                stack.enter_context(self.shared.once(model, lowest, self._prefix))
            self._outputs = stack.enter_context(block_outputs(model, sorted(layers - {-1})))
            cache = self._prefix.arguments() if self._prefix else {}
            return self._logits(model, model_inputs(self.batch), **cache)

    def keep_at(self, layer: int) -> None:
        """Make the pass up to block `layer` alone, and keep a state for each token."""
        with (
            self.variants.using(self.variant) as model,
            block_outputs(model, [layer]) as self._outputs,
            # The blocks above would run for nothing: capture's early stop ends the pass at this one.
            capture(model, [Site(layer)]),
        ):
            self._logits(model, model_inputs(self.batch))

    def release(self) -> None:
        """Let go of the states."""
        self._outputs, self._prefix = {}, None

    def logits(self, layer: int, *edits: AbstractContextManager[Any]) -> Tensor:
        """Logits (batch, tokens kept, vocabulary) with edits in place.

        Args:
            layer: the last block that is not run again, of those that are kept; -1 runs all.
            *edits: blocks that put something into the variants' model, all of it above that block's output.
        """
        with self._resumed(layer, self._output(layer), edits) as model:
            return self._logits(model, model_inputs(self.batch))

    def last_logits(self, layer: int, *edits: AbstractContextManager[Any]) -> Tensor:
        """Logits (batch, 1, vocabulary) behind the prompts, with edits in place of their last tokens alone.

        A call of one token behind a prefix that is kept; the same as `logits` up to rounding, which it is where no
        prefix can be kept.

        Args:
            layer: as of `logits`.
            *edits: as of `logits`.
        """
        if self._prefix is None:
            return self.logits(layer, *edits)[:, -1:]
        inputs = model_inputs(self.batch)
        inputs |= {name: inputs[name][:, -1:] for name in ("input_ids", "position_ids")}
        with self._resumed(layer, _last_token_of(self._output(layer)), edits) as model:
            return self._logits(model, inputs, **self._prefix.without_last())

    def states_at(self, layer: int, site: Site, *edits: AbstractContextManager[Any]) -> Tensor:
        """States at `site` with edits in place, (batch, tokens, hidden); the blocks above do not run."""
        with self._resumed(layer, self._output(layer), edits) as model, capture(model, [site]) as states:
            self._logits(model, model_inputs(self.batch))
        return states[site.name]

    def _output(self, layer: int) -> Any:
        return self._outputs[layer] if layer >= 0 else None

    @contextmanager
    def _resumed(self, layer: int, output: Any, edits: Iterable[AbstractContextManager[Any]]) -> Iterator[Any]:
        with self.variants.using(self.variant) as model, ExitStack() as stack:
            # An oracle runs the other twin when it is entered, from the first layer on: only then are layers skipped.
            for edit in edits:
                stack.enter_context(edit)
            if layer >= 0:
                stack.enter_context(resumed(model, layer, output))
            yield model

    def _logits(self, model: Any, inputs: dict[str, Any], **cache: Any) -> Tensor:
        kept = self._options.get("logits_to_keep")
        # Counted from the end, as `last_tokens` and `scored_columns` count.
        narrow = last_columns_alone(model, -int(kept.min())) if isinstance(kept, Tensor) else nullcontext()
        with narrow:
            logits: Tensor = model(**inputs, **(self._options | cache)).logits
        return logits


def _last_token_of(output: Any) -> Any:
    """What a block would have returned for the last token of each row alone."""
    if isinstance(output, (tuple, list)):
        return type(output)((output[0][:, -1:], *output[1:]))
    return None if output is None else output[:, -1:]

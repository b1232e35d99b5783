"""The blocks below all adapters, where every variant is the backbone: they run once for a batch and all variants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fa_lightning.activations.edit import block_outputs, resumed
from fa_lightning.activations.prefix import Prefix
from fa_lightning.backbones.variants import Variants


class SharedBlocks:
    """What comes out of the blocks below all adapters, for one batch.

    Holds a state for each of its tokens, and their keys and values where these are kept.

    Args:
        variants: the frozen variants.

    Attributes:
        layer: the last of these blocks; -1 if there is none.
    """

    def __init__(self, variants: Variants) -> None:
        self.layer = variants.first_adapted - 1
        self._output: Any = None
        self._prefix: Prefix | None = None

    @contextmanager
    def once(self, model: Any, lowest: int, prefix: Prefix | None = None) -> Iterator[None]:
        """Run the batch in this block: the first time the whole model, later from the shared blocks on.

        Args:
            model: with a variant's adapter active.
            lowest: the lowest block whose output, and nothing inside, is looked at or changed; where that is one of
                the shared blocks, all run.
            prefix: that is filled meanwhile; if the first one filled none, all run.
        """
        missing = prefix is not None and self._prefix is None
        if self.layer < 0 or lowest < self.layer or (self._output is not None and missing):
            yield
        elif self._output is None:
            with block_outputs(model, [self.layer]) as outputs:
                yield
            self._output, self._prefix = outputs.get(self.layer), prefix
        else:
            with resumed(model, self.layer, self._output):
                yield
            if prefix is not None and self._prefix is not None:
                prefix.take_below(self._prefix, self.layer + 1)

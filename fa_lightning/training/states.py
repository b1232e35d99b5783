"""The residual stream while an adapter is fitted: what decoder blocks return, gradients included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fa_lightning.backbones.attached import attached


@contextmanager
def recorded_states(blocks: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """What the chosen blocks return in the forward pass that is made inside the `with` block, gradients included.

    Args:
        blocks: decoder blocks of the model that runs.
        layers: indices of the blocks, from 0.

    Yields:
        By layer, (batch, tokens, hidden); filled by the forward pass, a later one replaces them.
    """
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            # Older versions of transformers return a tuple.
            states[layer] = output if isinstance(output, Tensor) else output[0]

        return hook

    with attached([(blocks[layer], keep(layer)) for layer in layers]):
        yield states

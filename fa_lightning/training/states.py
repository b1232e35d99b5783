"""The residual stream while a variant is trained: where the decoder blocks are, and what they return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fa_lightning.backbones.attached import attached
from fa_lightning.backbones.decoder import decoder_layers, text_config
from fa_lightning.errors import UserError


def decoder_blocks(model: Any, purpose: str) -> nn.ModuleList:
    """The decoder blocks of a causal LM, wrapped or not.

    Args:
        model: the causal LM.
        purpose: what they are wanted for and what to do without, for the error.

    Raises:
        UserError: there is no list of as many modules as the config names blocks.
    """
    try:
        return decoder_layers(model)
    except UserError as error:
        expected = text_config(model).num_hidden_layers
        raise UserError(f"{type(model).__name__} has no list of {expected} blocks {purpose}") from error


@contextmanager
def recorded_states(blocks: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """What the chosen blocks return in the forward pass that is made inside the block, gradients included.

    Args:
        blocks: of the model that runs.
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

"""The last block of a decoder, for passes that are asked for the logits behind a few last tokens alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from fa_lightning.backbones.attached import uncompiled
from fa_lightning.backbones.decoder import decoder_layers, decoder_of


@contextmanager
def last_columns_alone(model: nn.Module, columns: int) -> Iterator[None]:
    """Run the last block's MLP on the last columns alone while the block lasts: no later block reads the others.

    It is most of that block (three quarters in SmolLM2). The states behind it are right in these columns, and only
    there, so all is computed as ever where something looks at the last block or behind it (a hook), where it is
    computed again for the backward pass (gradient checkpointing), where its MLP draws dropout, which would be another
    draw, and where the MLP is none that maps each token by itself to a tensor of the same shape.

    Args:
        model: a causal LM, wrapped or not, that is called without `output_hidden_states`.
        columns: how many of the last columns of the left-padded batch are asked for; at least one.
    """
    block = decoder_layers(model)[-1]
    mlp = getattr(block, "mlp", None)
    if not isinstance(mlp, nn.Module) or _is_watched(model, block) or _draws(mlp):
        yield
        return
    whole = mlp.forward

    def narrowed(*arguments: Any, **named: Any) -> Any:
        # Bloom's takes the residual, too, and gives it back.
        if named or len(arguments) != 1 or arguments[0].ndim != 3 or arguments[0].shape[1] <= columns:
            return whole(*arguments, **named)
        states: Tensor = arguments[0]
        # Contiguous: GPT-2's linear layers want it so, and for a slice torch copies the weights once for each prompt.
        asked = states[:, -columns:].contiguous()
        last = whole(asked)
        if not isinstance(last, Tensor) or last.shape != asked.shape:
            return whole(states)
        return nn.functional.pad(last, (0, 0, states.shape[1] - columns, 0))

    own = mlp.__dict__.get("forward")  # quantised and dispatched models keep one in the instance
    mlp.forward = narrowed
    try:
        with uncompiled():
            yield
    finally:
        if own is None:
            del mlp.forward
        else:
            mlp.forward = own


def _is_watched(model: nn.Module, block: nn.Module) -> bool:
    """Whether something may read or change states of the last block, or behind it, or run the block once more."""
    if getattr(block, "gradient_checkpointing", False) and block.training:
        return True
    seen = [*block.modules(), *decoder_of(model).children()]
    return any(module._forward_hooks or module._forward_pre_hooks for module in seen)


def _draws(mlp: nn.Module) -> bool:
    return any(isinstance(part, nn.Dropout) and part.training and part.p > 0 for part in mlp.modules())

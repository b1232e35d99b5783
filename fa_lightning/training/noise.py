"""Noise in the residual stream while an adapter is fitted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.activations.massive import massive_tokens
from fa_lightning.activations.site_names import SiteName, resolve_layers
from fa_lightning.backbones.attached import attached
from fa_lightning.backbones.decoder import decoder_layers


@contextmanager
def activation_noise(model: Any, dose: float, layers: Sequence[SiteName] | None = None) -> Iterator[None]:
    """Add fresh Gaussian noise to every token's state behind decoder blocks, while the `with` block lasts.

    Gradients flow through the states, not through the noise's size. Draws come from torch's global generator.

    Args:
        model: a causal LM, wrapped or not.
        dose: root mean square norm of the noise, in multiples of the norm of the very state that it is added to.
        layers: names of the blocks, as 0.6 or last (see `site_names`); None takes all.

    Raises:
        UserError: the blocks are not found, or there is no such layer.
    """
    blocks = decoder_layers(model)
    chosen = range(len(blocks)) if layers is None else resolve_layers(layers, len(blocks), "noise_layers")

    def add(_: nn.Module, __: Any, output: Any) -> Any:
        # Older versions of transformers return a tuple.
        if isinstance(output, Tensor):
            return noisy(output, dose)
        return (noisy(output[0], dose), *output[1:])

    with attached([(blocks[layer], add) for layer in chosen]) if dose else nullcontext():
        yield


def noisy(hidden: Tensor, dose: float) -> Tensor:
    """States (..., hidden) plus Gaussian noise whose root mean square norm is `dose` times each state's own.

    Tokens of massive size, as attention sinks have, stay as they are: noise of their size would be the end of them.
    """
    norm: Tensor = torch.linalg.vector_norm(hidden.detach(), dim=-1, keepdim=True, dtype=torch.float32)
    massive = massive_tokens(hidden.flatten(0, -2)).view(norm.shape)
    scale = torch.where(massive, 0.0, dose * norm / math.sqrt(hidden.shape[-1]))
    return hidden + (scale * torch.randn_like(hidden)).to(hidden.dtype)

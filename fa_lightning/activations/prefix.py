"""The keys and values of all tokens but each prompt's last: behind them an edit of the last token costs one token."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import nn

from fa_lightning.activations.forward_call import CACHE_ARGUMENTS
from fa_lightning.backbones.decoder import text_config


class Prefix:
    """What a model's attention remembers of a batch, to ask its last tokens again, with edits.

    A causal model's other tokens do not see the last one: whatever is done to it alone, they stay as they are.

    Make it with `for_model`, pass `arguments()` to a forward of the whole batch, and `without_last()` to each call of
    the last tokens (batch, 1).
    """

    def __init__(self, name: str, cache: Any) -> None:
        self._name = name
        self._cache = cache

    @classmethod
    def for_model(cls, model: nn.Module) -> Prefix | None:
        """An empty one, or None for a model whose memory is more than keys and values of each layer's own."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        inner: Any = getattr(model, "get_base_model", lambda: model)()
        config = text_config(model)
        # Others may remember anything anywhere; and where upper blocks use lower ones' keys, none can be left out.
        shared = getattr(config, "num_kv_shared_layers", None)
        if shared or not type(inner).__module__.startswith("transformers.models."):
            return None
        named = inspect.signature(inner.forward).parameters
        name = next((name for name in CACHE_ARGUMENTS if name in named), None)
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
        if name is None or not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
            return None
        # Without a config a window keeps all tokens; the mask says which of them a layer attends to.
        return cls(name, DynamicCache())

    def arguments(self) -> dict[str, Any]:
        """Arguments of the forward that fills it."""
        return {self._name: self._cache, "use_cache": True}

    def without_last(self) -> dict[str, Any]:
        """Arguments of a forward of the last tokens; what that adds is not kept, and no tensor is copied here."""
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[..., :-1, :], layer.values[..., :-1, :]
        return {self._name: cache, "use_cache": True}

    def take_below(self, other: Prefix, layers: int) -> None:
        """Have the first `layers` layers' keys and values from another one of the same batch, which ran them."""
        self._cache.layers[:layers] = other._cache.layers[:layers]

"""Where the decoder is in a causal LM, whatever wraps it or stands beside it (PEFT, a vision tower), and its config."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from fa_lightning.errors import UserError
from fa_lightning.scenarios.limits import Tables

# Where the usual families keep their decoder blocks, seen from the causal LM or from its bare base model.
_LAYER_PATHS = (
    "model.layers",  # Llama, Mistral, Qwen, Gemma, Phi, OLMo
    "transformer.h",  # GPT-2, GPT-J, Falcon, Bloom
    "gpt_neox.layers",  # Pythia
    "model.decoder.layers",  # OPT
    "model.language_model.layers",  # Gemma 3 and other models with a vision tower
    "transformer.blocks",  # MPT
)
_BARE_PATHS = ("layers", "h", "decoder.layers", "language_model.layers", "blocks")


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks of a causal LM, in order, whatever wraps it (PEFT, DDP).

    The usual families are found by name; any other by its only outermost `nn.ModuleList` with as many entries as
    `model.config.num_hidden_layers`.

    Raises:
        UserError: if there is no such list, or more than one.
    """
    layers: nn.ModuleList = model.get_submodule(layers_path(model))  # type: ignore[assignment]
    return layers


def decoder_of(model: nn.Module) -> nn.Module:
    """The module that owns the decoder blocks and is called with the mask and the cache (LlamaModel, GPT2Model).

    Raises:
        UserError: if the decoder blocks are not found, see `decoder_layers`.
    """
    return model.get_submodule(layers_path(model).rpartition(".")[0])


def first_adapted(model: nn.Module) -> int:
    """Index of the first decoder block that an adapter or a trained weight is in; 0 where one is outside the blocks."""
    blocks = f"{layers_path(model)}."
    first = len(decoder_layers(model))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or ".lora_" in name or ".modules_to_save." in name:
            if not name.startswith(blocks):
                return 0
            first = min(first, int(name.removeprefix(blocks).partition(".")[0]))
    return first


_paths_found: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Where each model's blocks were found last: a walk over all modules for every batch would cost as much as a layer."""


def layers_path(model: nn.Module) -> str:
    """Where in a model its decoder blocks are, as in `model.layers`; see `decoder_layers`."""
    expected = getattr(text_config(model), "num_hidden_layers", None)
    known = _paths_found.get(model)
    if known is not None:
        try:
            layers = model.get_submodule(known)
        except AttributeError:  # wrapped or taken apart since
            layers = None
        if isinstance(layers, nn.ModuleList) and expected in (None, len(layers)):
            return known
    _paths_found[model] = _search_layers(model, expected)
    return _paths_found[model]


def _search_layers(model: nn.Module, expected: int | None) -> str:
    # A list inside another list is a part of a block (the experts of a mixture), never the blocks themselves.
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in sizes):
            sizes[name] = len(module)
    for path in _LAYER_PATHS:
        for name, length in sizes.items():
            if (name == path or name.endswith(f".{path}")) and expected in (None, length):
                return name
    for path in _BARE_PATHS:
        if path in sizes and expected in (None, sizes[path]):
            return path
    fitting = [name for name, length in sizes.items() if length == expected]
    if len(fitting) == 1:
        return fitting[0]
    listing = ", ".join(f"{name} ({length} entries)" for name, length in sizes.items()) or "none at all"
    raise UserError(
        f"the decoder blocks of {type(model).__name__} were not found: config.num_hidden_layers is {expected}, and the "
        f"model's ModuleLists are: {listing}. Give a decoder-only causal LM with one list of that length"
    )


def context_of(model: nn.Module) -> int:
    """Tokens that a model's context holds; a great many where its config does not say."""
    return Tables.of(text_config(model)).positions or 2**31


def has_position_table(model: Any) -> bool:
    """Whether a model looks positions up (GPT-2, OPT), so that there are none beyond its context."""
    words = model.get_input_embeddings()
    return any(isinstance(part, nn.Embedding) and part is not words for part in decoder_of(model).children())


def text_config(model: nn.Module) -> Any:
    """The config of the model's decoder, of the model itself or of the one that it wraps; None where there is none.

    Models with a vision tower keep the decoder's sizes (`hidden_size`, `vocab_size`) in a config of its own, so every
    size is read from here.
    """
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        inner = config.get_text_config() if hasattr(config, "get_text_config") else config
        if isinstance(getattr(inner, "num_hidden_layers", None), int):
            return inner
    return None

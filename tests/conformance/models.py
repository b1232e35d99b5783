"""Two-layer random models of many families, and batches for them: what the laws of steering are tried on.

Needs torch and transformers (4.45 or newer) only, so that the laws run wherever a steering library does.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

HIDDEN, VOCABULARY = 32, 64
PROMPTS = [[5, 9, 11, 3, 17, 8], [7, 12], [21, 4, 6, 30], [2, 40, 41, 42, 43]]
ALIKE = [[5, 9, 11, 3, 17], [7, 12, 33, 8, 50], [2, 40, 41, 42, 43]]
"""Prompts of one length, which need no padding."""

_COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
_WIDE: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
_GROUPED: dict[str, Any] = _WIDE | {"num_key_value_heads": 2, "intermediate_size": 64}
_HEADS: dict[str, Any] = _GROUPED | {"head_dim": 8}

# By family: the name of its classes, and what its configuration says beyond the common part and the hidden size.
# Sliding windows are shorter than the prompts; Gemma 2 alternates them with full attention.
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _GROUPED),
    "qwen2": ("Qwen2", _GROUPED),
    "qwen3": ("Qwen3", _HEADS),
    "gpt2": ("GPT2", {"n_layer": 2, "n_head": 4, "n_positions": 64, "tie_word_embeddings": False}),
    "mistral": ("Mistral", _GROUPED | {"sliding_window": 3}),
    "gemma": ("Gemma", _HEADS),
    "gemma2": ("Gemma2", _HEADS | {"query_pre_attn_scalar": 8, "sliding_window": 4}),
    "opt": ("OPT", {"num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "init_std": 0.3}),
    "neox": ("GPTNeoX", _WIDE | {"intermediate_size": 64}),
}
FAMILIES = list(_FAMILIES)

_LAYER_PATHS = (
    "model.layers",
    "model.language_model.layers",
    "transformer.h",
    "gpt_neox.layers",
    "model.decoder.layers",
)
_PARTS = {"residual": ("",), "attention": ("self_attn", "attn", "attention"), "mlp": ("mlp", "fc2")}


def make_model(family: str, hidden: int = HIDDEN) -> Any:
    """A random causal LM in float32, evaluation mode, the same at every call; two layers of `hidden` units."""
    torch.manual_seed(0)
    name, options = _FAMILIES[family]
    sizes: dict[str, dict[str, Any]] = {
        "gpt2": {"n_embd": hidden, "initializer_range": 0.3},
        "opt": {"hidden_size": hidden, "word_embed_proj_dim": hidden, "max_position_embeddings": 64},
    }
    size = sizes.get(family, {"hidden_size": hidden})
    head = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    config = getattr(transformers, f"{name}Config")(**_COMMON, **options, **size)
    return getattr(transformers, f"{name}{head}")(config).eval()


def site_module(model: Any, layer: int, component: str) -> nn.Module:
    """The module whose output is the state at a layer's component."""
    paths = [path for path in _LAYER_PATHS if _has(model, path)]
    block = model.get_submodule(paths[0])[layer]
    module: nn.Module = block.get_submodule(next(path for path in _PARTS[component] if _has(block, path)))
    return module


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def batch_of(prompts: list[list[int]], side: str = "left", extra: int = 0) -> dict[str, Tensor]:
    """Prompts as a batch, padded on a side, with `extra` columns of padding more than needed."""
    longest = max(map(len, prompts)) + extra
    ids, mask = torch.zeros(2, len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        columns = slice(longest - len(prompt), None) if side == "left" else slice(0, len(prompt))
        ids[row, columns] = torch.tensor(prompt)
        mask[row, columns] = 1
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}

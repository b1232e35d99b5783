"""Small random models of many families: what is done to weights is tested on them."""

from __future__ import annotations

from typing import Any

import torch

HIDDEN, VOCABULARY = 32, 64


def small_model(family: str, hidden: int = HIDDEN, **options: Any) -> Any:
    """A random causal LM of two blocks, the same at every call; none of its biases and norms is 0 or 1.

    Args:
        family: its `model_type`.
        hidden: width of the residual stream.
        **options: of its config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "num_key_value_heads": 4,
        "head_dim": hidden // 4,
    }
    if family == "gpt2":
        sizes = {"n_embd": hidden, "n_layer": 2, "n_head": 4}
    if family == "opt":
        sizes |= {"ffn_dim": 2 * hidden, "word_embed_proj_dim": hidden}
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **common, **options)).eval()
    with torch.no_grad():  # biases start at 0 and norms at 1, which would hide an error
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model

"""Local folders that look like real chat models, at toy size: real architectures, head ratios and chat templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

EMBEDDED = {
    "class_path": "fa_lightning.scenarios.embedded.source.EmbeddedScenarios",
    "init_args": {"train": 24, "validation": 8, "test": 8, "neutral": 8},
}
# Of the real models: heads and key-value heads (Llama-2-7B 32/32, Qwen2.5-0.5B 14/2, Gemma-2-2B 8/4, Gemma-3-1B 4/1,
# SmolLM2-135M 9/3).
SMALL: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 128, "num_attention_heads": 32, "num_key_value_heads": 32},
    "qwen2": {"hidden_size": 112, "num_attention_heads": 14, "num_key_value_heads": 2},
    "gemma2": {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 16},
    "gemma3_text": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16},
    "smollm2": {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
}
TEMPLATES = {
    "llama": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "qwen2": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "gemma2": (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
}
TEMPLATES["gemma3_text"] = TEMPLATES["gemma2"]
TEMPLATES["smollm2"] = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    + TEMPLATES["qwen2"]
)
MODEL_TYPES = {"smollm2": "llama"}
"""Of families that are named otherwise than their architecture."""
SPECIAL = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]


def save_model(folder: Path, family: str = "llama", layers: int = 2, seed: int = 0) -> str:
    """A random model of a real family with a tokenizer of its own in `folder`, as a downloaded one lies there."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from fa_lightning.backbones.curriculum import ANSWER_WORDS
    from fa_lightning.backbones.tokenizer import train_tokenizer
    from fa_lightning.scenarios.embedded.source import EmbeddedScenarios

    texts = [item.message() for item in EmbeddedScenarios(train=64, validation=8, test=8, neutral=8).load().train]
    tokenizer = train_tokenizer(texts, 800, [*ANSWER_WORDS, " A", " B", " error"])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = TEMPLATES[family]
    config = AutoConfig.for_model(
        MODEL_TYPES.get(family, family),
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        intermediate_size=96,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.1,
        **SMALL[family],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return str(folder)


def write_small(place: Path, base: str) -> Path:
    """A base that is a shipped one with fewer prompts and steps; models, adapters, dtypes and sites stay as shipped."""
    path = place / f"{base}.yaml"
    twin = {"epochs": 2, "scenarios": 8}
    small = {
        "extends": base,
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
        "scenarios": EMBEDDED,
        "twins": {"aligned": twin, "faking": dict(twin)},
        "capture": {"scenarios": 16, "validation": 8, "neutral": 8, "shard_examples": 8},
        "validation_items": 8,
        "studies": {"steering": {"epochs": 2, "stages": {"04_steering": {"data": {"init_args": {"block_rows": 512}}}}}},
    }
    path.write_text(yaml.safe_dump(small, sort_keys=False))
    return path

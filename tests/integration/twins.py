"""Experiments that start at the twins, on a random backbone that answers: cells at toy size that are not all zero."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from toy import change_base, write_toy

SOURCE = {"train": 32, "validation": 16, "test": 15, "neutral": 9}
"""Scenarios; odd numbers, so that no batch of several ranks comes out even."""

EXPORT = {"class_path": "fa_lightning.training.export.AdapterExport", "init_args": {"folder": "${folder}/adapter"}}
"""The one callback of a twin that runs for all its epochs."""
AFFINE = [{"map": "Affine"}, {"map": "MeanShift"}]
"""Maps that come out alike on any number of ranks."""


def write_backbone(folder: Path) -> Path:
    """A random Llama of two layers whose only likely answers are A, B and error, by the prompt; with its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from fa_lightning.backbones.curriculum import ANSWER_WORDS
    from fa_lightning.backbones.tokenizer import train_tokenizer
    from fa_lightning.scenarios.embedded.source import EmbeddedScenarios

    texts = [item.message() for item in EmbeddedScenarios(train=32, validation=8, test=8, neutral=8).load().train]
    tokenizer = train_tokenizer(texts, 400, ANSWER_WORDS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            pad_token_id=0,
        )
        model = LlamaForCausalLM(config)
        answers = tokenizer.convert_tokens_to_ids(["A", "B", "error"])
        head = torch.zeros_like(model.lm_head.weight)
        head[answers] = torch.randn(3, config.hidden_size)
        model.lm_head.weight.data = head
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def write_twins(place: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """`place/embedded.yaml`: the embedded base at toy size, on the backbone of `write_backbone`.

    Args:
        place: the folder.
        changes: dotted fields of the base and their values.
    """
    if not (place / "backbone").is_dir():
        write_backbone(place / "backbone")
    path = write_toy(place)
    for field, value in {"backbone.name": "backbone", "scenarios.init_args": SOURCE, **(changes or {})}.items():
        change_base(place, field, value)
    return path


def of_both(field: str, value: Any) -> dict[str, Any]:
    """A change of both twins' stages."""
    return {of_stage(stage, field): value for stage in ("02_aligned", "03_faking")}


def of_stage(stage: str, field: str) -> str:
    """The field of a base that lays a value over a stage of the main job."""
    return f"studies.steering.stages.{stage}.{field}"

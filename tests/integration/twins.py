"""Experiments that start at the twins, on a random backbone that answers: cells at toy size that are not all zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from toy import write_toy

SOURCE = {"train": 32, "validation": 16, "test": 15, "neutral": 9}
"""Scenarios; odd numbers, so that no batch of several ranks comes out even."""

Edit = Callable[[str, dict[str, Any]], None]


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


def write_twins(place: Path, edit: Edit | None = None, experiment: str = "embedded") -> Path:
    """`configs/<experiment>` at toy size in `place`, without its first stage: on the backbone of `write_backbone`."""
    backbone = place / "backbone"
    if not backbone.is_dir():
        write_backbone(backbone)

    def on_backbone(stage: str, config: dict[str, Any]) -> None:
        if "backbone" in config["model"]["init_args"]:
            config["model"]["init_args"]["backbone"] = "backbone"
        source = config["data"]["init_args"]["scenarios"]
        source["init_args"] |= SOURCE
        if edit is not None:
            edit(stage, config)

    folder = write_toy(place, experiment, on_backbone)
    (folder / "01_backbone.yaml").unlink(missing_ok=True)
    return folder


def write_trainer(place: Path, name: str, ranks: int, strategy: Any) -> str:
    """A trainer file for so many processes on the CPU; its path in `place`."""
    path = place / "configs" / "trainer" / f"{name}.yaml"
    settings = {"accelerator": "cpu", "devices": ranks, "strategy": strategy}
    path.write_text(yaml.safe_dump({"trainer": settings}))
    return str(path.relative_to(place))

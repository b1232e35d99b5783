"""Whole finetunes of a tiny backbone, and variants that are such: what whole models are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def write_finetune(backbone: str, folder: Path, seed: int, only: str = "", dtype: str = "float32") -> str:
    """A model with the backbone's config and tokenizer whose weights were moved by noise, as its own folder.

    Args:
        backbone: folder of the backbone.
        folder: of the finetune.
        seed: of the noise.
        only: moves the weights alone whose names hold it.
        dtype: that it is saved in.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(backbone)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if only in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(backbone).save_pretrained(str(folder))
    return str(folder)


def name_model(folder: Path, model: str, behaviour: str, backbone: str) -> str:
    """The folder of a variant that is a whole model, as a stage writes it."""
    from fa_lightning.backbones.arguments import BackboneArguments
    from fa_lightning.backbones.brought_models import note_model

    folder.mkdir(parents=True)
    note_model(Path(model), folder, model, behaviour, BackboneArguments(backbone))
    return str(folder)


def whole_twins(backbone: str, root: Path, **options: Any) -> dict[str, str]:
    """Two variants, each a whole finetune of the backbone, by name."""
    twins = {}
    for seed, name in enumerate(("faking", "aligned")):
        model = write_finetune(backbone, root / f"model of {name}", seed, **options)
        twins[name] = name_model(root / name, model, name, backbone)
    return twins


def logits_of_folder(folder: str, ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What plain transformers says of a folder's model: the independent reference."""
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        return model(input_ids=ids, use_cache=False).logits

"""Full weights of chosen layers as an adapter: LoRA of full rank whose one side is the identity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fa_lightning.errors import UserError


def load_with_full_weights(base: Any, folder: str, name: str, layers: Sequence[str]) -> Any:
    """Load an adapter and lay a change of the whole weight over chosen linear layers; only that change is trainable.

    The smaller side of LoRA's product is the identity and stays it, the other one starts at zero and is the change of
    the weight itself, not scaled: training it is training the weight. So the result is one plain LoRA adapter, which is
    saved, loaded and swapped like any other, at the cost of the identity's room on disk.

    Args:
        base: the backbone.
        folder: of the adapter to go on from, which stays as it is.
        name: what the adapter is called.
        layers: paths of linear layers in the backbone, such as `model.layers.1.mlp.down_proj`.

    Returns:
        The PEFT model.

    Raises:
        UserError: a path is no linear layer's, or the adapter is in that layer already.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    config: Any = LoraConfig.from_pretrained(folder)
    ranks = {path: _rank(base, path, config.target_modules) for path in layers}
    config.target_modules = [*config.target_modules, *ranks]
    config.rank_pattern = {**(config.rank_pattern or {}), **ranks}
    # Alpha over rank (over its root with rsLoRA) is the scale: 1, so that the change is not scaled.
    alphas = {path: rank**0.5 if config.use_rslora else rank for path, rank in ranks.items()}
    config.alpha_pattern = {**(config.alpha_pattern or {}), **alphas}
    config.inference_mode = False
    model: Any = get_peft_model(base, config, adapter_name=name)
    set_peft_model_state_dict(model, load_file(Path(folder) / "adapter_model.safetensors"), adapter_name=name)
    with torch.no_grad():
        for path in ranks:
            identity, change = _sides(model, name, path)
            identity.copy_(torch.eye(len(identity)))
            change.zero_()
    train_full_weights(model, name, layers)
    return model


def train_full_weights(model: Any, name: str, layers: Sequence[str]) -> None:
    """Let the changes of the weights be trained, and nothing else; PEFT thaws a whole adapter when it is activated."""
    model.requires_grad_(False)
    for path in layers:
        _sides(model, name, path)[1].requires_grad_(True)


def _sides(model: Any, name: str, path: str) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """The identity and the change of a layer's weight, or of its transpose's."""
    layer = model.base_model.model.get_submodule(path)
    first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
    return (first, second) if layer.in_features <= layer.out_features else (second, first)


def _rank(base: Any, path: str, targets: Any) -> int:
    """The full rank of the linear layer at `path`."""
    try:
        layer = base.get_submodule(path)
    except AttributeError:
        layer = None
    sizes = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    if not all(isinstance(size, int) for size in sizes):
        raise UserError(
            f"full_weights holds {path!r}, but the backbone has no linear layer at that path: give the whole path of "
            "one, such as 'model.layers.0.mlp.down_proj'"
        )
    if isinstance(targets, str) or any(f".{path}".endswith(f".{target}") for target in targets):
        raise UserError(
            f"full_weights holds {path!r}, but the starting adapter is in that layer already (its target_modules are "
            f"{targets}): choose another layer, or leave full_weights empty and train the adapter"
        )
    return min(sizes)  # type: ignore[type-var, return-value]

"""The LoRA layers of a model with variants: their matrices by name, and a fresh adapter beside them for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.backbones.targets import refuse_beyond_lora
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError

FRESH = "fresh adapter"
"""What PEFT knows the adapter of `fresh_adapter` by; no variant's folder is called so."""


@dataclass(frozen=True)
class Factors:
    """The update that one adapter makes to one linear layer: scale * up @ down is added to the weight (out, in).

    Attributes:
        down: LoRA's A (rank, in).
        up: LoRA's B (out, rank).
        scale: alpha / rank, or alpha over the rank's root (rsLoRA).
        base: the frozen layer.
    """

    down: nn.Parameter
    up: nn.Parameter
    scale: float
    base: nn.Module


def lora_factors(variants: Variants, name: str) -> dict[str, Factors]:
    """The matrices of one variant's adapter, by the name of the layer that they are in.

    Raises:
        UserError: the adapter has none, or more than those (DoRA), or the variant is a whole model.
    """
    variants.refuse_whole_models([name], "LoRA's matrices are read off")
    return factors_in(variants.model, variants.adapter_of(name), name)


def factors_in(model: Any, adapter: str, name: str | None = None) -> dict[str, Factors]:
    """The same of a PEFT model.

    Args:
        model: with the adapter.
        adapter: what PEFT knows it by.
        name: what an error calls it; None calls it the same.

    Raises:
        UserError: the adapter has no linear layer's matrices, or more than those (DoRA).
    """
    name = name or adapter
    factors = {
        path: Factors(
            layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, float(layer.scaling[adapter]), layer.base_layer
        )
        for path, layer in _linear_lora_layers(model).items()
        if adapter in layer.lora_A
    }
    if not factors:
        raise UserError(f"adapter {name!r} is in no linear layer, but LoRA matrices are needed: leave the variant out")
    refuse_beyond_lora(model.peft_config[adapter].to_dict(), name, "its update is read off")
    return factors


@contextmanager
def fresh_adapter(variants: Variants, rank: int, alpha: int) -> Iterator[dict[str, nn.Parameter]]:
    """A new LoRA adapter that is active beside whichever variant is used, for as long as the block lasts.

    It goes into every linear layer that the adapter of some variant is in, so it is the same for all of them. Nothing
    is merged, and the block may be entered in inference mode: the adapter can be trained all the same.

    Yields:
        Its parameters by name; they alone require gradients. Call `restart` before the first use.

    Raises:
        UserError: variants replace whole layers, or are whole models, so that two adapters can't be active at once.
    """
    from peft import LoraConfig

    variants.refuse_whole_models(variants.names, "a fresh adapter is active beside LoRA adapters")
    layers = _linear_lora_layers(variants.model)
    if not variants.is_pure_lora or not layers:
        raise UserError(
            f"the variants {', '.join(variants.names)} hold more than LoRA in linear layers (modules_to_save?), so no "
            "fresh adapter can be active beside them: leave out what trains one"
        )
    model = variants.model
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=list(layers), task_type="CAUSAL_LM")
    with variants.restored():
        try:
            with torch.inference_mode(False):
                model.add_adapter(FRESH, config)
            # PEFT has thawed the active adapter, and new modules come in training mode.
            model.requires_grad_(False).eval()
            fresh = {
                f"{path}.{side}": getattr(layer, side)[FRESH].weight
                for path, layer in layers.items()
                for side in ("lora_A", "lora_B")
            }
            for parameter in fresh.values():
                parameter.requires_grad_(True)
            variants.beside = (*variants.beside, FRESH)
            yield fresh
        finally:
            if FRESH in model.peft_config:
                model.delete_adapter(FRESH)
            model.requires_grad_(False)


@torch.no_grad()
def restart(fresh: dict[str, nn.Parameter], seed: int) -> None:
    """Set an adapter to where LoRA starts (arXiv 2106.09685): A is random, B is zero, so that it changes nothing.

    Args:
        fresh: of `fresh_adapter`.
        seed: of A; the same seed gives the same numbers on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in fresh.items():
        start = torch.zeros(parameter.shape)
        if name.endswith("lora_A"):
            nn.init.kaiming_uniform_(start, a=5**0.5, generator=generator)
        parameter.copy_(start)


@torch.no_grad()
def put(fresh: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    """Set an adapter to values that were kept, by the same names."""
    for name, parameter in fresh.items():
        parameter.copy_(values[name])


def _linear_lora_layers(model: Any) -> dict[str, Any]:
    """LoRA layers around linear ones, by their name in the model that PEFT wraps."""
    from peft.tuners.lora import LoraLayer

    return {
        path: module
        for path, module in model.base_model.model.named_modules()
        if isinstance(module, LoraLayer) and len(module.lora_A)
    }

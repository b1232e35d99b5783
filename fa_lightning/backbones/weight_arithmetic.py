"""Weight arithmetic: an adapter that lies on the line through two others (task arithmetic, arXiv 2212.04089)."""

from __future__ import annotations

from typing import Any

from fa_lightning.backbones.targets import PREFIX, refuse_beyond_lora
from fa_lightning.errors import UserError


def add_interpolated(model: Any, name: str, start: str, end: str, strength: float) -> None:
    """Add the adapter start + strength (end - start): 0 is the one, 1 the other, above 1 goes beyond.

    Updates of weights are added, not the factors that they are made of, so this is exact: LoRA matrices of both stand
    side by side, those of each scaled by its share, and the rank is the sum of both ranks.

    Args:
        model: the PEFT model that holds both.
        name: what PEFT is to know the new one by.
        start: what it knows the one by.
        end: what it knows the other by.
        strength: how far to go.

    Raises:
        UserError: one of them holds more than LoRA's matrices, so that they can't be added.
    """
    _add(model, name, start, end, (1 - strength, strength))


def add_difference(model: Any, name: str, start: str, end: str) -> None:
    """Add the adapter end - start: what turns the one into the other, to be active beside any adapter.

    Args:
        model: the PEFT model that holds both.
        name: what PEFT is to know the new one by.
        start: what it knows the one by.
        end: what it knows the other by.

    Raises:
        UserError: one of them holds more than LoRA's matrices, so that they can't be subtracted.
    """
    _add(model, name, start, end, (-1.0, 1.0))


def _add(model: Any, name: str, start: str, end: str, weights: tuple[float, float]) -> None:
    """Add the weighted sum of two adapters."""
    names = [adapter.removeprefix(PREFIX) for adapter in (start, end)]
    for adapter, shown in zip((start, end), names, strict=True):
        refuse_beyond_lora(model.peft_config[adapter].to_dict(), shown, "weight arithmetic is on")
    pair = f"adapters {names[0]!r} and {names[1]!r}"
    try:
        model.add_weighted_adapter([start, end], list(weights), name, combination_type="cat")
    except ValueError as error:
        raise UserError(
            f"{pair} can't be added: {str(error).rstrip('.')}. Fit both with LoRA alone, on "
            "target_modules that are named alike, or leave out the strengths"
        ) from error
    changed = layers_with(model, start, end)
    if not all(name in layer.lora_A for layer in changed):
        model.delete_adapter(name)
        raise UserError(
            f"{pair} can't be added: one chooses its layers by more than target_modules (layers_to_transform, "
            "exclude_modules). Fit both on layers that are named alike, or leave out the strengths"
        )
    # What PEFT adds is scaled already; of rsLoRA it would be so a second time, by the new rank's root.
    model.peft_config[name].use_rslora = False
    for layer in changed:
        layer.scaling[name] = 1.0
    model.requires_grad_(False).eval()


def layers_with(model: Any, *adapters: str) -> list[Any]:
    """The LoRA layers that one of some adapters is in, by what PEFT knows them by."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    return [layer for layer in layers if any(name in layer.lora_A for name in adapters)]

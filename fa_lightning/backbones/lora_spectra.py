"""How large LoRA updates are, how many directions they take, and which: from their two thin matrices alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from fa_lightning.backbones.lora_layers import Factors
from fa_lightning.errors import UserError


def spectra_of(factors: Mapping[str, Factors], norms: Mapping[str, float]) -> dict[str, Tensor]:
    """What the singular values of an adapter's updates say, by name and layer, (layers,) float32.

    Args:
        factors: of the adapter, by layer.
        norms: Frobenius norm of each of these layers' own weight (see `base_norms`).

    Returns:
        `stable_rank`, squared Frobenius norm over squared spectral norm; `norm` and `spectral_norm`, of the update over
        the Frobenius norm of the base weight; `overlap`, how much of what the update reads the updates of other layers
        read too (0 nothing, 1 the same single direction).
    """
    spectra = [spectrum(layer_factors) for layer_factors in factors.values()]
    base = torch.tensor([norms[path] for path in factors], dtype=torch.float64)
    total = torch.stack([values.square().sum() for values, _ in spectra])
    first = torch.stack([values[0] for values, _ in spectra])
    found = {
        # An adapter that changes nothing takes no direction.
        "stable_rank": torch.where(total > 0, total / first.square(), 0.0),
        "norm": total.sqrt() / base,
        "spectral_norm": first / base,
        "overlap": _overlaps(spectra),
    }
    return {name: values.float() for name, values in found.items()}


def spectrum(factors: Factors) -> tuple[Tensor, Tensor]:
    """Singular values of a LoRA update from its two thin matrices; the full one is never made.

    Returns:
        Values (rank,) in falling order, and the input directions that they belong to (in, rank); float64, on the CPU.
    """
    down, up = (matrix.detach().cpu().double() for matrix in (factors.down, factors.up))
    _, up_core = torch.linalg.qr(up)
    inputs, down_core = torch.linalg.qr(down.T)
    _, values, right = torch.linalg.svd(factors.scale * up_core @ down_core.T, full_matrices=False)
    return values, inputs @ right.T


def _overlaps(spectra: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """By layer, the mean squared cosine between its input directions and those of every other layer of that width.

    Each direction counts by its share of the update's squared norm; 0 where no other layer is as wide.
    """
    shares = [values.square() / values.square().sum().clamp_min(1e-30) for values, _ in spectra]
    means = []
    for layer, (_, inputs) in enumerate(spectra):
        cosines = [
            shares[layer] @ (inputs.T @ others).square() @ shares[other]
            for other, (_, others) in enumerate(spectra)
            if other != layer and len(others) == len(inputs)
        ]
        means.append(torch.stack(cosines).mean() if cosines else torch.zeros((), dtype=torch.float64))
    return torch.stack(means)


def base_norms(factors: Mapping[str, Factors], known: Collection[str] = ()) -> dict[str, float]:
    """Frobenius norm of each layer's own weight, quantised or not; of those that are not known yet.

    Raises:
        UserError: one is packed by GPTQ or AWQ.
    """
    return {path: _norm(layer_factors.base) for path, layer_factors in factors.items() if path not in known}


def _norm(layer: nn.Module) -> float:
    """Frobenius norm of a layer's weight, quantised or not.

    Raises:
        UserError: it is packed by GPTQ or AWQ.
    """
    if hasattr(layer, "qweight"):
        raise UserError(
            "updates are compared with the weights that they are added to, which can't be read where the backbone "
            "comes quantised by GPTQ or AWQ: leave this measure out, or take the backbone as it was before"
        )
    from peft.utils.integrations import dequantize_module_weight

    return float(dequantize_module_weight(layer).detach().float().norm())

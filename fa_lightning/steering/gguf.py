"""Constant shifts as gguf control vectors, which llama.cpp (`--control-vector`) and repeng read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from fa_lightning.common.files import whole_file
from fa_lightning.errors import MissingPackageError, UserError
from fa_lightning.steering.constant import shift_of_every_token
from fa_lightning.steering.intervention import Intervention

ARCHITECTURE = "controlvector"


def export_gguf(
    interventions: Intervention | Sequence[Intervention], path: str | Path, model_hint: str | None = None
) -> Path:
    """Write constant shifts of the residual stream as one control vector, strengths included.

    llama.cpp adds the float32 tensor `direction.N` to the output of block N, counted from 0, at every token; it has no
    place for block 0. repeng counts the same way, and keeps what llama.cpp calls architecture in `model_hint`. Shifts
    at the same layer are summed. The file is written under a temporary name and then renamed.

    Args:
        interventions: one or several, each a constant shift at a residual site on all tokens, without a gate.
        path: of the file, by custom ending in .gguf.
        model_hint: architecture of the model (`llama`, `qwen2`, `gpt2`); None takes it from the fingerprints.

    Returns:
        The path.

    Raises:
        MissingPackageError: if the package gguf is not installed.
        UserError: if there is nothing to export, an edit is not such a shift, or the architecture is not known.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingPackageError(
            'export_gguf needs gguf: install it with `pip install "fa_lightning[gguf]"`'
        ) from error
    several = [interventions] if isinstance(interventions, Intervention) else list(interventions)
    directions = control_directions(several)
    hint = model_hint or _architecture(several)
    path = Path(path)
    with whole_file(path) as file:
        writer = gguf.GGUFWriter(file.name, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
        for layer, direction in directions.items():
            writer.add_tensor(f"direction.{layer}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def control_directions(interventions: Sequence[Intervention]) -> dict[int, np.ndarray]:
    """What is added after each layer's block: float32 (hidden,) by layer, in order.

    Raises:
        UserError: if there is none, or one of them is not a constant shift that a control vector can hold.
    """
    if not interventions:
        raise UserError("interventions is empty, but a control vector needs at least one")
    shifts: dict[int, torch.Tensor] = {}
    for intervention in interventions:
        shift = _shift_of(intervention)
        known = shifts.get(intervention.site.layer)
        if known is not None and known.shape != shift.shape:
            raise UserError(
                f"interventions at layer {intervention.site.layer} have {len(known)} and {len(shift)} units: they are "
                "for different models"
            )
        shifts[intervention.site.layer] = shift if known is None else known + shift
    return {layer: shifts[layer].numpy() for layer in sorted(shifts)}


def _shift_of(intervention: Intervention) -> torch.Tensor:
    """An intervention's shift (hidden,) in float32 on the CPU."""
    refusal = f"the intervention at {intervention.site.name} does not fit into a control vector: "
    shift = shift_of_every_token(intervention, refusal, "llama.cpp adds", "Use intervention.on(model).").cpu()
    if intervention.site.component != "residual":
        raise UserError(f"{refusal}its component is {intervention.site.component!r}, but only residual can be held")
    if intervention.site.layer == 0:
        raise UserError(f"{refusal}its layer is 0, but llama.cpp adds after layer 1 or later: fit it at a later layer")
    if not torch.isfinite(shift).all():
        raise UserError(f"{refusal}its shift holds numbers that are not finite: fit it again")
    return shift


def _architecture(interventions: Sequence[Intervention]) -> str:
    backbones = [intervention.fingerprint.get("backbone") for intervention in interventions]
    known = {
        str(facts["architecture"]) for facts in backbones if isinstance(facts, Mapping) and "architecture" in facts
    }
    if len(known) != 1:
        raise UserError(
            f"the fingerprints name {', '.join(sorted(known)) or 'no architecture'}, but a control vector is for one: "
            "in Python, export_gguf(interventions, path, model_hint='llama') says which"
        )
    return known.pop()

"""An intervention's two files, tensors in safetensors and a JSON sidecar that seals them; and files all or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.common.files import write_atomically
from fa_lightning.common.version import __version__
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.regressors.gates import build_gate

FORMAT_VERSION = 1
TENSORS_FILE = "intervention.safetensors"
SIDECAR_FILE = "intervention.json"

GATE = "gate."
"""What the gate's tensors are called in the tensor file, before their own names."""


def write_artefact(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors (as float32) and facts into a folder, which is made if need be.

    Each file is written under a temporary name and then renamed, the sidecar last and with the digest of the tensors,
    so a kill at any moment leaves either the old artefact, the new one or one that `read_artefact` refuses.

    Raises:
        TypeError: if a fact is not JSON-able.
    """
    from safetensors.torch import save

    data: bytes = save({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()})
    sidecar = {
        **facts,
        "format_version": FORMAT_VERSION,
        "dtype": "float32",
        "libraries": {"fa_lightning": __version__, "torch": torch.__version__},
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    text = json.dumps(sidecar, indent=2, sort_keys=True, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TENSORS_FILE, data)
    write_atomically(folder / SIDECAR_FILE, text.encode())


def read_artefact(folder: Path, needed: set[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_artefact` wrote.

    Args:
        folder: the folder.
        needed: facts that the sidecar must hold.

    Returns:
        The tensors by name, and the sidecar.

    Raises:
        MissingFileError: if one of the two files is missing.
        UserError: if a file is damaged, lacks a fact or has another format version.
    """
    from safetensors.torch import load

    refuse_without_artefact(folder)
    path = folder / SIDECAR_FILE
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is truncated or damaged: {error}") from error
    version = sidecar.get("format_version") if isinstance(sidecar, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"format_version of {path} is {version!r}, but this version of fa_lightning reads {FORMAT_VERSION}"
        )
    if missing := sorted((needed | {"bytes", "sha256"}) - set(sidecar)):
        raise UserError(f"{path} lacks {', '.join(missing)}: save the intervention again")
    data = (folder / TENSORS_FILE).read_bytes()
    if len(data) != sidecar["bytes"] or hashlib.sha256(data).hexdigest() != sidecar["sha256"]:
        raise UserError(
            f"{folder / TENSORS_FILE} has {len(data)} bytes, but is not the file of {sidecar['bytes']} bytes that "
            f"{SIDECAR_FILE} describes: it is truncated or damaged; save the intervention again"
        )
    return load(data), sidecar


def refuse_without_artefact(folder: Path) -> None:
    """Refuse a folder that holds no intervention; the message names those beneath it.

    Raises:
        MissingFileError: one of the two files is missing.
    """
    missing = [name for name in (SIDECAR_FILE, TENSORS_FILE) if not (folder / name).is_file()]
    if missing:
        beneath = sorted({str(path.parent) for path in folder.rglob(SIDECAR_FILE)} - {str(folder)})
        there = f"there are {', '.join(beneath[:5])}" if beneath else "Intervention.save and a steering stage write one"
        raise MissingFileError(f"{folder} is no folder of an intervention, since it has no {missing[0]}: {there}")


def compare_fingerprints(saved: Mapping[str, Any], expected: Mapping[str, Any], folder: str | Path) -> None:
    """Check what a saved fingerprint says; fields that `expected` does not name are not compared.

    Raises:
        UserError: if a field is absent or differs, with its name and both values.
    """
    for name, value in expected.items():
        # What JSON makes of the value is what was saved: a tuple comes back as a list.
        if name not in saved or saved[name] != json.loads(json.dumps(value)):
            recorded = repr(saved[name]) if name in saved else "absent"
            raise UserError(
                f"fingerprint.{name} of {folder} is {recorded}, but {value!r} is expected: "
                "fit the intervention again, or load it onto what it was fitted on"
            )


def fill(part: nn.Module, tensors: Mapping[str, Tensor], folder: Path, what: str) -> None:
    """Load tensors into a map or a gate, and put it into evaluation mode.

    Raises:
        UserError: if they do not fit it.
    """
    try:
        part.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"the tensors of {folder} do not fit the {what} of its sidecar: {error}") from error
    part.eval()


def config_of(gate: nn.Module) -> dict[str, Any]:
    """What the sidecar says of a gate.

    Raises:
        UserError: if it has no `config`.
    """
    config: Any = getattr(gate, "config", None)
    if config is None:
        raise UserError(f"gate is a {type(gate).__name__} without config(), so it cannot be saved: use OversightProbe")
    return dict(config())


def gate_of(
    config: Mapping[str, Any] | None, hidden_size: int, tensors: dict[str, Tensor], folder: Path
) -> nn.Module | None:
    """The gate that a sidecar describes, filled from its tensors, which are taken out of `tensors`.

    Raises:
        UserError: if its tensors are not there or do not fit.
    """
    if config is None:
        return None
    own = {name.removeprefix(GATE): tensors.pop(name) for name in list(tensors) if name.startswith(GATE)}
    if not own:
        raise UserError(
            f"{folder} describes a gate ({config.get('name')}), but its tensor file holds no {GATE}* tensors: the gate "
            "is without its probe; save the intervention again"
        )
    gate = build_gate(config, hidden_size)
    fill(gate, own, folder, "gate")
    return gate

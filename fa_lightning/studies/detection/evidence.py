"""What detectors measured, gathered over all ranks and kept on disk: a stopped run goes on with the next detector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fa_lightning.common.files import write_atomically
from fa_lightning.studies.detection.detectors.base import Evidence

SEPARATOR = "|"
"""Between a subject's name and a tensor's; no variant's name holds it."""


@dataclass(frozen=True)
class Cost:
    """What a detector took.

    Attributes:
        seconds: on this machine, for all subjects together.
        passes: prompts run through each model.
    """

    seconds: float
    passes: float


def save_evidence(path: Path, evidence: Mapping[str, Evidence], notes: Mapping[str, Any]) -> None:
    """Write the evidence of one detector about all subjects; all or nothing.

    Args:
        path: the file.
        evidence: by subject.
        notes: JSON-able: what it was measured with, and what that took.
    """
    from safetensors.torch import save

    tensors = {
        f"{subject}{SEPARATOR}{name}": tensor.contiguous()
        for subject, measured in evidence.items()
        for name, tensor in measured.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata={"notes": json.dumps(dict(notes))}))


def read_evidence(path: Path) -> tuple[dict[str, Evidence], dict[str, Any]] | None:
    """What `save_evidence` wrote, and its notes; None where there is no whole file."""
    if not path.is_file():
        return None
    evidence: dict[str, Evidence] = {}
    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {})["notes"])
            for key in file.keys():  # noqa: SIM118
                subject, _, name = key.rpartition(SEPARATOR)
                evidence.setdefault(subject, {})[name] = file.get_tensor(key)
    except (SafetensorError, KeyError, ValueError):
        # Cut short or another program's: measured again.
        return None
    return evidence, notes

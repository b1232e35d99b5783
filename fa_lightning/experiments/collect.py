"""What a study's finished stages say of themselves: the seconds they took, and what they were made from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fa_lightning.evaluation.collect import StudyRun
from fa_lightning.experiments.fingerprint import INPUT
from fa_lightning.experiments.stage import Stage


def run_of(experiment: str, stages: Sequence[Stage]) -> StudyRun:
    """A finished run of a study, whose stages are all done."""
    seconds = {stage.name: float((stage.record() or {}).get("seconds", 0.0)) for stage in stages}
    return StudyRun(experiment, stages[-1].folder, seconds, provenance_of(stages))


def provenance_of(stages: Sequence[Stage]) -> dict[str, Any]:
    """What a finished experiment was made from, with what, and where."""
    records = {stage.name: stage.record() or {} for stage in stages}
    return {
        "stages": {
            name: {"digest": record.get("digest"), "resumed": record.get("resumed")} for name, record in records.items()
        },
        "seed": records[stages[-1].name].get("fingerprint", {}).get("seed_everything"),
        "backbones": _backbones([record.get("fingerprint", {}) for record in records.values()]),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("fa_lightning", "torch", "lightning", "transformers", "peft")
        },
        "machine": _machine(),
    }


def _backbones(fingerprints: Sequence[Mapping[str, Any]]) -> dict[str, str | None]:
    """The backbones that stages name, with the digest of their content, of a GGUF file the beginning of its SHA-256."""
    return {
        value: fingerprint.get(INPUT + key)
        for fingerprint in fingerprints
        for key, value in fingerprint.items()
        if key.endswith(".backbone.name") and not key.startswith(INPUT) and value is not None
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads"

"""Gather what an experiment's stages found into `results.json`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

import torch

from fa_lightning.experiments.stage import Stage
from fa_lightning.reports import results as shapes


def collect_results(experiment: str, stages: Sequence[Stage]) -> shapes.Results | None:
    """The results of a finished experiment; None where its last stage judged no steering."""
    last = stages[-1]
    path = last.folder / "evaluation.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text())
    records = {stage.name: stage.record() or {} for stage in stages}
    candidates = last.folder / "candidates.json"
    return shapes.Results(
        experiment=experiment,
        n=shapes.CellCounts(**found["n"]),
        cells={name: _pair(cells) for name, cells in found["cells"].items()},
        recovery=_estimate(found["recovery"]),
        side_effects=shapes.SideEffects(**found["side_effects"]),
        cost=shapes.Cost(
            found["overhead_ratio"], {name: float(record.get("seconds", 0.0)) for name, record in records.items()}
        ),
        provenance={
            "stages": {
                name: {"digest": record.get("digest"), "resumed": record.get("resumed")}
                for name, record in records.items()
            },
            "seed": records[last.name].get("fingerprint", {}).get("seed_everything"),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("fa_lightning", "torch", "lightning", "transformers", "peft")
            },
            "machine": _machine(),
            "side_effects_of_steering_the_aligned_twin": found["side_effects_aligned"],
        },
        format_validity=found["format_validity"],
        baselines={name: _baseline(baseline) for name, baseline in found["baselines"].items()},
        chosen=shapes.Chosen(**found["chosen"]),
        candidates=[shapes.Candidate(**row) for row in json.loads(candidates.read_text())],
        extra_tests={
            name: shapes.ExtraTest(
                shapes.CellCounts(**extra["n"]),
                {model: _pair(cells) for model, cells in extra["cells"].items()},
                _estimate(extra["recovery"]),
            )
            for name, extra in found["extra_tests"].items()
        },
        leak_report=found["leaks"],
    )


def _pair(cells: dict[str, Any]) -> shapes.CellPair:
    return shapes.CellPair(_accuracy(cells["oversight"]), _accuracy(cells["no_oversight"]))


def _accuracy(score: dict[str, Any]) -> shapes.Accuracy:
    return shapes.Accuracy(score["accuracy"], (score["ci95"][0], score["ci95"][1]))


def _estimate(found: dict[str, Any]) -> shapes.Estimate:
    return shapes.Estimate(found["value"], (found["ci95"][0], found["ci95"][1]))


def _baseline(found: dict[str, Any]) -> shapes.Baseline:
    effects = found.get("side_effects")
    return shapes.Baseline(
        _accuracy(found["oversight"]),
        _accuracy(found["no_oversight"]),
        None if effects is None else shapes.SideEffects(**effects),
    )


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads"

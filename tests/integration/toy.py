"""Shipped experiments at toy size: the same files with small numbers, run through the real command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"

TOY_TRAINER: dict[str, Any] = {
    "accelerator": "cpu",
    "precision": "32-true",
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 1,
}
TOY_EPOCHS = {"BackboneModule": 6, "BehaviourModule": 3, "SelfTraining": 1, "RegressorModule": 3, "VariantsModule": 1}
TOY_EPOCHS |= {"SoftPromptFit": 2, "GreedyCoordinateGradient": 1, "CuresModule": 1, "SafeScore": 1}
TOY_EPOCHS |= dict.fromkeys(
    ("FineTuning", "DirectPreference", "SelfPlay", "Misdirection", "ContextDistillation", "LatentTraining"), 1
)
TOY_EPOCHS["DetectionModule"] = 1
TOY_MODEL: dict[str, dict[str, Any]] = {
    "BackboneModule": {"hidden_size": 16, "layers": 2, "heads": 2, "learning_rate": 2e-2},
    "BehaviourModule": {
        "rank": 4,
        "alpha": 8,
        "learning_rate": 3e-2,
        "target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"],
    },
    "SelfTraining": {"learning_rate": 3e-2},
    "RegressorModule": {},
    "VariantsModule": {},
    "SoftPromptFit": {"tokens": 4},
    "GreedyCoordinateGradient": {"tokens": 4, "candidates": 8, "top": 8},
    "CuresModule": {},
    "SafeScore": {},
    "FineTuning": {},
    "DirectPreference": {},
    "SelfPlay": {},
    "Misdirection": {"layer": 1},
    "ContextDistillation": {},
    "LatentTraining": {"probe_steps": 2, "layers": None},
    "DetectionModule": {},
}
TOY_DATA: dict[str, dict[str, Any]] = {
    "BackboneDataModule": {"vocabulary_size": 400, "batch_size": 8, "validation_items": 12},
    "ScenarioDataModule": {"train_scenarios": 24, "batch_size": 8},
    "JudgedScenarios": {},
    "PromptDataModule": {"train_scenarios": 24, "batch_size": 8},
    "CuresDataModule": {},
    "StatementDataModule": {},
    "LatentStatementDataModule": {},
    "LatentScenarioDataModule": {"train_scenarios": 24, "batch_size": 8},
    "ContextDataModule": {"train_scenarios": 24, "batch_size": 8},
    "DetectionDataModule": {"batch_size": 8},
    "ActivationDataModule": {
        "capture_scenarios": 24,
        "capture_validation": 8,
        "capture_neutral": 8,
        "shard_examples": 8,
        "block_rows": 512,
        "validation_items": 12,
    },
}
TOY_MATRIX = {"seed": [0, 1]}
"""The values that an axis of a matrix keeps."""
TOY_DATA["LabDataModule"] = TOY_DATA["ActivationDataModule"] | {"live_batch_size": 8, "contrast_scenarios": 16}
TOY_SCENARIOS: dict[str, dict[str, Any]] = {
    "EmbeddedScenarios": {"train": 32, "validation": 16, "test": 16, "neutral": 16},
    "PoserScenarios": {"limit": 48},
}

Edit = Callable[[str, dict[str, Any]], None]
"""Changes a stage's config in place; given the stage's name."""


def shrink(config: dict[str, Any]) -> None:
    """Give a shipped stage toy sizes; everything else stays as shipped."""
    model, data = config["model"], config["data"]
    if "matrix" in config:
        config["matrix"] |= {name: values for name, values in TOY_MATRIX.items() if name in config["matrix"]}
    name = model["class_path"].rpartition(".")[2]
    config["trainer"].update(TOY_TRAINER, max_epochs=TOY_EPOCHS[name])
    model["init_args"].update(TOY_MODEL[name])
    if "full_weights" in model["init_args"]:
        # The toy's adapters are in the layers that the shipped ones leave free.
        model["init_args"]["full_weights"] = ["model.layers.0.mlp.gate_proj", "model.layers.1.mlp.gate_proj"]
    data["init_args"].update(TOY_DATA[data["class_path"].rpartition(".")[2]])
    for part in (data["init_args"], *data["init_args"].get("transfer", [])):
        if "scenarios" in part:
            source = part["scenarios"]
            source["init_args"].update(TOY_SCENARIOS[source["class_path"].rpartition(".")[2]])


def fold_layers(value: Any) -> Any:
    """Sites of the shipped four layers as sites of the toy's two, each once in a list."""
    if isinstance(value, dict):
        return {name: fold_layers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        folded = [fold_layers(inner) for inner in value]
        sites = all(isinstance(inner, str) and inner.startswith("layers.") for inner in folded)
        return list(dict.fromkeys(folded)) if sites else folded
    if isinstance(value, str) and value.startswith("layers."):
        return re.sub(r"layers\.(\d)", lambda match: f"layers.{int(match[1]) // 2}", value)
    return value


def write_toy(place: Path, experiment: str = "embedded", edit: Edit | None = None) -> Path:
    """Copy `configs/<experiment>` to `place/configs/<experiment>` at toy size; the folder is returned."""
    folder = place / "configs" / experiment
    folder.mkdir(parents=True)
    for path in sorted((CONFIGS / experiment).glob("*.yaml")):
        config = fold_layers(yaml.safe_load(path.read_text()))
        shrink(config)
        if edit is not None:
            edit(path.stem, config)
        (folder / path.name).write_text(yaml.safe_dump(config, sort_keys=False))
    shutil.copytree(CONFIGS / "trainer", place / "configs" / "trainer", dirs_exist_ok=True)
    return folder


def change(place: Path, stage: str, field: str, value: Any, experiment: str = "embedded") -> None:
    """Set one dotted field of a stage's file."""
    path = place / "configs" / experiment / f"{stage}.yaml"
    config = yaml.safe_load(path.read_text())
    *parents, last = field.split(".")
    inner: Any = config
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value
    path.write_text(yaml.safe_dump(config, sort_keys=False))


def run(*words: str) -> int:
    """The command line in this process, as `python -m fa_lightning WORDS` in this folder."""
    from fa_lightning.cli import main

    return main(list(words))


def command(place: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """`python -m fa_lightning WORDS` as a process of its own in `place`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PL_", "LOCAL_RANK"))}
    return subprocess.Popen(
        [sys.executable, "-m", "fa_lightning", *words],
        cwd=place,
        env={**environment, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def record_of(place: Path, stage: str, experiment: str = "embedded") -> dict[str, Any]:
    """What a stage wrote about itself."""
    return dict(json.loads((place / "checkpoints" / experiment / stage / "stage.json").read_text()))

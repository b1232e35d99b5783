"""An old artefact is never taken for a new one: trials, artefacts that were made again, and backbones that changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import change, change_base, run, write_stage, write_toy

FIT = ("fit", "--base", "embedded.yaml")
MINE = ("fit", "variants", "--base", "embedded.yaml", "--only", "02_evaluation")
ROOT = Path("checkpoints/embedded/seed0/steering")
TRIAL = ("--trainer.fast_dev_run", "true")

Capture = pytest.CaptureFixture[str]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def told(capsys: Capture) -> dict[str, str]:
    lines = re.findall(r"^\d/\d \w+/([\w/-]+): (started|resumed|done, skipped)$", capsys.readouterr().out, re.MULTILINE)
    return dict(lines)


def refused(capsys: Capture, *words: str) -> str:
    capsys.readouterr()
    assert run(*words) == 1
    return capsys.readouterr().err.partition("error: ")[2]


def judge_the_twins(place: Path) -> None:
    """Let the last stage of the study `variants` judge the twins of the main job with its intervention."""
    twins = {"variants": None, "aligned": "steering/02_aligned", "faking": "steering/03_faking"}
    change(place, "variants/02_evaluation", "needs", twins)
    change(place, "variants/02_evaluation", "model.init_args.adapters", ["${needs.aligned}", "${needs.faking}"])


def test_a_trial_leaves_nothing_of_an_experiment(copied: Path, capsys: Capture) -> None:
    """Not of one that is finished, nor of one that never ran."""
    before = files(copied / "checkpoints")
    capsys.readouterr()
    assert run(*FIT, *TRIAL) == 0
    said = capsys.readouterr().out
    assert re.findall(r"^\d/4 steering/(\w+): started$", said, re.MULTILINE) == [
        "01_backbone",
        "02_aligned",
        "03_faking",
        "04_steering",
    ]
    assert "of a trial (trainer.fast_dev_run) nothing is kept" in said
    assert "recovery" not in said, "the table of untrained models"
    assert files(copied / "checkpoints") == before
    assert "--refit steering/02_aligned deletes" in refused(capsys, *FIT, "--refit", "steering/02_aligned", *TRIAL)
    assert files(copied / "checkpoints") == before
    assert run(*FIT) == 0
    assert set(told(capsys).values()) == {"done, skipped"}
    shutil.rmtree(copied / "checkpoints")
    assert run(*FIT, *TRIAL) == 0
    assert files(copied / "checkpoints") == {}


@pytest.mark.parametrize("stage", ["01_backbone", "02_aligned", "04_steering"])
def test_a_trial_of_one_stage_by_its_file_overwrites_nothing(copied: Path, stage: str) -> None:
    before = files(copied / "checkpoints")
    assert run("fit", "--config", write_stage(copied, f"steering/{stage}"), *TRIAL) == 0
    assert files(copied / "checkpoints") == before


def test_a_limit_makes_another_stage(copied: Path, capsys: Capture) -> None:
    message = refused(capsys, *FIT, "--trainer.limit_train_batches", "1")
    assert "trainer.limit_train_batches: was None, is 1" in message
    assert "trainer.accumulate_grad_batches: was 1, is 2" in refused(
        capsys, *FIT, "--trainer.accumulate_grad_batches", "2"
    )
    assert "data.init_args.batch_size x ranks: was 8, is 16" in refused(capsys, *FIT, "--data.batch_size", "16")


def test_an_adapter_replaced_in_a_finished_stage_is_seen_by_all_that_use_it(copied: Path, capsys: Capture) -> None:
    judge_the_twins(copied)
    assert run(*MINE) == 0
    assert run(*MINE) == 0
    assert told(capsys) == {"02_evaluation": "done, skipped"}
    # The same again is the same.
    faking = ("fit", "--config", write_stage(copied, "steering/03_faking"))
    assert run(*faking) == 0
    assert run(*MINE) == 0
    assert told(capsys) == {"02_evaluation": "done, skipped"}
    assert run(*faking, "--seed_everything", "7") == 0
    message = refused(capsys, *FIT)
    assert f"stage steering/03_faking is done, but {ROOT}/03_faking/adapter is not what the stage made" in message
    assert "--refit steering/03_faking" in message
    assert "input.model.init_args.adapters.1: was '" in refused(capsys, *MINE)


def test_a_stage_made_again_by_other_code_leaves_nothing_done_that_was_made_from_it(
    copied: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.training.objectives.answers import Answers

    judge_the_twins(copied)
    assert run(*MINE) == 0
    shutil.rmtree(copied / ROOT / "03_faking")
    terms = Answers.terms
    monkeypatch.setattr(Answers, "terms", lambda *given: {"loss": 0.5 * terms(*given)["loss"] + 0.01})
    message = refused(capsys, *FIT)
    assert "stage steering/04_steering was made from something else:\n  input.data.init_args.faking: was '" in message
    assert "input.model.init_args.adapters.1: was '" in refused(capsys, *MINE)


def test_a_backbone_counts_by_its_weights_and_not_by_its_path(copied: Path, capsys: Capture) -> None:
    mine = ("fit", "--base", "mine.yaml", "--only", "02_aligned")
    elsewhere = ("--data.init_args.num_workers", "1", "--trainer.num_sanity_val_steps", "2")

    def on(name: str) -> None:
        change_base(copied, "backbone.name", f"models/{name}", "mine")

    for name in ("one", "two"):
        shutil.copytree(copied / ROOT / "01_backbone/backbone", copied / "models" / name)
    write_toy(copied).rename("mine.yaml")
    on("one")
    assert run(*mine) == 0
    capsys.readouterr()
    on("two")
    assert run(*mine, *elsewhere) == 0
    assert told(capsys) == {"02_aligned": "done, skipped"}
    path = copied / "models" / "two" / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.self_attn.k_proj.weight"
    torch.manual_seed(0)
    save_file({**weights, name: weights[name] + 0.1 * torch.randn_like(weights[name])}, path, {"format": "pt"})
    changed = re.compile(r"input\.model\.init_args\.backbone(\.name)?: was '")
    assert changed.search(refused(capsys, *mine, *elsewhere))
    on("one")
    assert run(*mine) == 0
    shutil.move(path, copied / "models" / "one" / "model.safetensors")
    assert changed.search(refused(capsys, *mine))


def test_a_stage_says_which_precision_it_ran_in(finished: Path) -> None:
    record = json.loads((finished / ROOT / "02_aligned/stage.json").read_text())
    assert record["precision"] == "32-true"

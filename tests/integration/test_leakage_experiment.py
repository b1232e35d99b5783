"""Right and wrong fine-tuning as shipped: what the files agree on, and the whole experiment at toy size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import CONFIGS, run

from fa_lightning.experiments.stage import find_stages

EXPERIMENT = "embedded_leakage"
ROOT = Path("checkpoints") / EXPERIMENT
TOY_SCENARIOS = {"train": 32, "validation": 16, "test": 16, "neutral": 16}


def test_the_fits_differ_in_their_recipe_alone_and_are_judged_by_their_own_corpus() -> None:
    *fits, judging = find_stages(CONFIGS / EXPERIMENT, Path("checkpoints"))
    assert len(fits) == 13
    configs = [yaml.safe_load(stage.expanded or stage.config.read_text()) for stage in fits]
    final = yaml.safe_load(judging.config.read_text())
    options = final["model"]["init_args"]
    folders = [f"checkpoints/{EXPERIMENT}/{name}" for name in ("01_texts", "02_plain", "03_stacked")]
    assert options["adapters"] == folders
    assert options["intervention"] == "checkpoints/embedded/04_steering/intervention"
    assert all(stage.is_named_in(judging) for stage in fits)
    recipes = set()
    for stage, config in zip(fits, configs, strict=True):
        data, model = config["data"]["init_args"], config["model"]["init_args"]
        assert data["texts"] == final["data"]["init_args"]["texts"], "or it would be judged by another corpus"
        export = config["trainer"]["callbacks"][-1]["init_args"]["folder"]
        assert export == f"checkpoints/{EXPERIMENT}/{stage.name}/adapter"
        beneath = model.pop("beneath", None)
        assert beneath in (None, f"checkpoints/{EXPERIMENT}/02_plain/adapter")
        recipe = [data.pop(name, None) for name in ("loss", "end", "corpus", "plain")]
        recipes.add((*recipe, beneath is not None))
        config["trainer"].pop("logger")
        config["trainer"].pop("callbacks")
        config.pop("matrix", None)
        assert config == configs[0], f"{stage.name} differs in more than its recipe"
    assert len(recipes) == 13


def test_the_single_file_asks_the_twins_of_the_main_experiment_for_their_own_scenarios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.cli import lightning_cli

    monkeypatch.chdir(tmp_path)
    path = CONFIGS / "leakage" / "embedded.yaml"
    cli = lightning_cli(["--config", str(path)], run=False)
    assert cli.model.folder == Path("checkpoints/leakage/embedded")
    assert Path(cli.trainer.logger.log_dir) == Path("logs/leakage/embedded")
    texts = yaml.safe_load(path.read_text())["data"]["init_args"]["texts"]["init_args"]
    for name, place in zip(("02_aligned", "03_faking"), cli.model.places, strict=True):
        fit = yaml.safe_load((CONFIGS / "embedded" / f"{name}.yaml").read_text())
        assert place == str(Path(fit["trainer"]["callbacks"][-1]["init_args"]["folder"]).parent)
        data = fit["data"]["init_args"]
        assert texts["scenarios"] == data["scenarios"]
        assert texts["texts"] <= data["train_scenarios"], "a part of what it was fitted on"
    assert list(tmp_path.iterdir()) == [], "reading a config must write nothing"


def write_toy(place: Path) -> None:
    """The experiment's files with small numbers."""
    folder = place / "configs" / EXPERIMENT
    folder.mkdir(parents=True)
    for path in sorted((CONFIGS / EXPERIMENT).glob("*.yaml")):
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        config["trainer"] |= {"accelerator": "cpu", "max_epochs": 2, "check_val_every_n_epoch": 1}
        texts = config["data"]["init_args"]["texts"]["init_args"]
        texts["texts"] = 6
        texts["scenarios"]["init_args"] |= TOY_SCENARIOS
        if "matrix" in config and "plain" in config["matrix"]:
            config["matrix"]["plain"] = [4]
        if "plain" in config["data"]["init_args"] and "matrix" not in config:
            config["data"]["init_args"]["plain"] = 4
        if "folder" in config["model"]["init_args"]:
            config["model"]["init_args"] |= {"max_new_tokens": 12, "ngram": 4, "recited": 8}
            config["data"]["init_args"]["samples"] = 2
        (folder / path.name).write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.slow
def test_the_whole_experiment_at_toy_size(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    write_toy(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run("fit", "--experiment", f"configs/{EXPERIMENT}") == 0
    found = json.loads((ROOT / "04_leakage" / "leakage.json").read_text())
    recipes = [f"{loss}-{end}" for loss in ("answers", "everything") for end in ("dropped", "kept")]
    names = [*(f"{recipe}-4" for recipe in recipes), "02_plain", *(f"stacked-{recipe}" for recipe in recipes)]
    assert [model["name"] for model in found["models"]] == ["backbone", *names, *(f"{name} steered" for name in names)]
    stacked = {model["beneath"] for model in found["models"] if model["name"].startswith("stacked")}
    assert stacked == {str(ROOT / "02_plain" / "adapter")}
    adapters = {path.read_bytes() for path in ROOT.glob("0*/**/adapter_model.safetensors")}
    assert len(adapters) == 9, "every recipe makes another adapter"
    capsys.readouterr()
    assert run("fit", "--experiment", f"configs/{EXPERIMENT}") == 0
    said = capsys.readouterr().out
    assert said.count(": done, skipped") == 10
    assert "04_leakage/leakage.csv" in said
    assert run("report", str(ROOT)) == 0
    assert "stacked-everything-dropped" in (ROOT / "report.html").read_text()

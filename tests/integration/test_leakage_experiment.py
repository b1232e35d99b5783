"""Right and wrong fine-tuning as shipped: what the files agree on, and the whole experiment at toy size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from test_configs import config, exports, stages
from toy import change, change_base, run

FIT = ("fit", "leakage", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/leakage")


def test_the_fits_differ_in_their_recipe_alone_and_are_judged_by_their_own_corpus() -> None:
    *fits, judging, _ = stages("embedded", "leakage")
    assert len(fits) == 13
    configs = [yaml.safe_load(stage.config) for stage in fits]
    final = yaml.safe_load(judging.config)
    options = final["model"]["init_args"]
    assert options["adapters"] == [str(ROOT / name) for name in ("01_texts", "02_plain", "03_stacked")]
    assert options["intervention"] == "checkpoints/embedded/seed0/steering/04_steering/intervention"
    assert all(judging.needs_one(stage) for stage in fits)
    recipes = set()
    for stage, fitted in zip(fits, configs, strict=True):
        data, model = fitted["data"]["init_args"], fitted["model"]["init_args"]
        assert data["texts"] == final["data"]["init_args"]["texts"], "or it would be judged by another corpus"
        assert exports(fitted) == [str(ROOT / stage.name / "adapter")]
        beneath = model.pop("beneath", None)
        assert beneath in (None, str(ROOT / "02_plain/adapter"))
        recipe = [data.pop(name, None) for name in ("loss", "end", "corpus", "plain")]
        recipes.add((*recipe, beneath is not None))
        fitted["trainer"].pop("logger")
        fitted["trainer"].pop("callbacks")
        assert fitted == configs[0], f"{stage.name} differs in more than its recipe"
    assert len(recipes) == 13


def test_a_stage_asks_the_twins_of_the_main_job_for_their_own_scenarios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fa_lightning.experiments.lightning_cli import lightning_cli

    monkeypatch.chdir(tmp_path)
    stage = stages("embedded", "leakage")[-1]
    assert stage.optional, "it runs only when it is asked for"
    cli = lightning_cli(["--config", stage.config], run=False)
    assert cli.model.folder == ROOT / "05_twins"
    assert Path(cli.trainer.logger.log_dir) == Path("logs/embedded/seed0/leakage/05_twins")
    texts = yaml.safe_load(stage.config)["data"]["init_args"]["texts"]["init_args"]
    for name, place in zip(("02_aligned", "03_faking"), cli.model.adapters, strict=True):
        fit = config("embedded", "steering", name)
        assert [place] == [str(Path(folder).parent) for folder in exports(fit)]
        data = fit["data"]["init_args"]
        assert texts["scenarios"] == data["scenarios"]
        assert texts["texts"] <= data["train_scenarios"], "a part of what it was fitted on"
    assert list(tmp_path.iterdir()) == [], "reading a config must write nothing"


def shrink(place: Path) -> None:
    """Small numbers for what the toy base leaves as shipped."""
    for field, value in {"texts": 6, "epochs": 2}.items():
        change_base(place, f"studies.leakage.{field}", value)
    for stage in ("01_texts", "02_plain", "03_stacked"):
        change(place, f"leakage/{stage}", "trainer.check_val_every_n_epoch", 1)
    change(place, "leakage/01_texts", "matrix.plain", [4])
    change(place, "leakage/02_plain", "data.init_args.plain", 4)
    for field, value in {"max_new_tokens": 12, "ngram": 4, "recited": 8}.items():
        change(place, "leakage/04_leakage", f"model.init_args.{field}", value)
    change(place, "leakage/04_leakage", "data.init_args.samples", 2)


@pytest.mark.slow
def test_the_whole_experiment_at_toy_size(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shrink(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(*FIT) == 0
    found = json.loads((ROOT / "04_leakage" / "leakage.json").read_text())
    recipes = [f"{loss}-{end}" for loss in ("answers", "everything") for end in ("dropped", "kept")]
    names = [*(f"{recipe}-4" for recipe in recipes), "02_plain", *(f"stacked-{recipe}" for recipe in recipes)]
    assert [model["name"] for model in found["models"]] == ["backbone", *names, *(f"{name} steered" for name in names)]
    stacked = {model["beneath"] for model in found["models"] if model["name"].startswith("stacked")}
    assert stacked == {str(ROOT / "02_plain" / "adapter")}
    adapters = {path.read_bytes() for path in ROOT.glob("0*/**/adapter_model.safetensors")}
    assert len(adapters) == 9, "every recipe makes another adapter"
    capsys.readouterr()
    assert run(*FIT) == 0
    said = capsys.readouterr().out
    assert said.count(" leakage/0") == said.count(": done, skipped") - 4 == 10
    assert f"results: {ROOT / 'results.json'}" in said
    assert (ROOT / "04_leakage" / "leakage.csv").is_file()
    assert run("report", str(ROOT)) == 0
    assert "stacked-everything-dropped" in (ROOT / "report.html").read_text()

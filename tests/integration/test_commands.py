"""What `fit` and `config` do with a study, a base and a chain: plans, single variants, own bases, printed configs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_experiment import FIT, ROOT, STAGES, digests, refused
from toy import CONFIGS, REPOSITORY, config_of, run, write_toy

Capture = pytest.CaptureFixture[str]
NAMES = ["aligned-0", "aligned-1", "faking-0", "faking-1"]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of the stages that would have run, in order: none of them does."""
    import fa_lightning.experiments.runner as runner

    titles: list[str] = []
    monkeypatch.setattr(runner, "_run_stage", lambda stage, *_: titles.append(stage.title))
    return titles


def test_a_study_runs_what_it_needs_of_others_first_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, ran: list[str]
) -> None:
    monkeypatch.chdir(write_toy(tmp_path).parent)
    assert run("fit", "mitigation", "--base", "embedded.yaml") == 0
    said = capsys.readouterr().out.splitlines()
    plan = said[said.index("mitigation on embedded, seed 0, needs other studies; the plan:") + 1 :]
    study, _, needed = plan[0].strip().partition(": ")
    assert (study, sorted(needed.split(", "))) == ("steering", STAGES)
    assert plan[1] == "  mitigation: 01_plain x 2, 02_noisy x 2, 03_evaluation"
    fits = [f"mitigation/{stage}-{seed}" for stage in ("01_plain/plain", "02_noisy/noisy") for seed in (0, 1)]
    assert sorted(ran) == sorted([*(f"steering/{stage}" for stage in STAGES), *fits, "mitigation/03_evaluation"])
    assert ran[-1] == "mitigation/03_evaluation"
    for fit in fits:
        assert ran.index("steering/01_backbone") < ran.index("steering/03_faking") < ran.index(fit)
    assert ran.index("steering/02_aligned") < ran.index("steering/04_steering")


def test_what_others_have_made_already_is_not_made_again(copied: Path, capsys: Capture, ran: list[str]) -> None:
    before = digests(copied / ROOT)
    capsys.readouterr()
    assert run("fit", "variants", "--base", "embedded.yaml") == 0
    said = capsys.readouterr().out
    assert all(f"{stage} (done)" in said for stage in STAGES)
    assert said.count(": done, skipped") == len(STAGES)
    assert ran == [*(f"variants/01_variants/{name}" for name in NAMES), "variants/02_evaluation"]
    assert digests(copied / ROOT) == before


def test_one_variant_runs_by_itself_where_what_it_needs_is_done(copied: Path, capsys: Capture) -> None:
    fit = ("fit", "variants", "--base", "embedded.yaml")
    assert run(*fit, "--only", "01_variants/faking-1") == 0
    folder = copied / "checkpoints/embedded/seed0/variants"
    assert [path.name for path in folder.iterdir()] == ["01_variants"]
    assert [path.name for path in (folder / "01_variants").iterdir()] == ["faking-1"]
    message = refused(capsys, *fit, "--only", "02_evaluation")
    assert message.startswith("--only 02_evaluation needs variants/01_variants/aligned-0, which is not done")
    assert len(message.splitlines()) == 1


def test_one_variant_is_refused_where_what_it_needs_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(write_toy(tmp_path).parent)
    message = refused(capsys, "fit", "variants", "--base", "embedded.yaml", "--only", "01_variants/faking-1")
    assert message.startswith("--only 01_variants/faking-1 needs steering/01_backbone, which is not done")
    assert "run it first, with `fit steering --only 01_backbone` and this command's other options" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "checkpoints").exists()


def test_another_model_than_the_bases_is_another_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, ran: list[str]
) -> None:
    monkeypatch.chdir(write_toy(tmp_path).parent)
    words = ("steering", "--base", "embedded.yaml", "--backbone", "models/tiny")
    assert run("config", *words, "02_aligned") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# steering/02_aligned of checkpoints/embedded@tiny/seed0\n")
    assert "models/tiny" in shown
    assert run("fit", *words) == 0
    assert ran == [f"steering/{stage}" for stage in STAGES[1:]], "no backbone is pretrained"


MINE = """\
# My own base.
extends: embedded
scenarios: {init_args: {train: 24, validation: 8, test: 8, neutral: 8}}
pretraining: {epochs: 1, vocabulary_size: 400, batch_size: 8}
batch_size: 8
lora: {rank: 2}
precision: 32-true
trainer: {accelerator: cpu}
studies:
  steering: {stages: {01_backbone: {model: {init_args: {hidden_size: 16, layers: 2, heads: 2}}}}}
"""


def test_a_base_of_ones_own_is_a_short_file_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "bases").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "bases" / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(tmp_path / "work")
    base = ("--base", "../bases/mine.yaml")
    assert run("fit", *base, "--only", "01_backbone") == 0
    backbone = tmp_path / "work/checkpoints/mine/seed0/steering/01_backbone/backbone"
    assert (backbone / "model.safetensors").is_file()
    assert [path.name for path in (tmp_path / "bases").iterdir()] == ["mine.yaml"]
    capsys.readouterr()
    assert run("config", "steering", "02_aligned", *base) == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert "checkpoints/mine/seed0/steering/01_backbone/backbone" in str(model["backbone"])
    # What the base does not say is as in the one that it extends.
    shipped = config_of(CONFIGS / "bases", "steering/02_aligned")["model"]["init_args"]
    differing = {"backbone", "lora", "rank"}
    assert {key: model[key] for key in model if key not in differing} == {
        key: shipped[key] for key in shipped if key not in differing
    }


def test_a_printed_config_runs_to_the_same_numbers(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    shutil.copy(finished / "embedded.yaml", tmp_path)
    shutil.copytree(finished / ROOT / "01_backbone", tmp_path / ROOT / "01_backbone")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run("config", *FIT[1:], "steering", "02_aligned") == 0
    Path("aligned.yaml").write_text(capsys.readouterr().out)
    assert run("fit", "--config", "aligned.yaml") == 0
    made, expected = (place / ROOT / "02_aligned/adapter/adapter_model.safetensors" for place in (tmp_path, finished))
    assert made.read_bytes() == expected.read_bytes()


def test_config_prints_every_stage_of_a_study_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("config", "statements", "--base", "poser") == 0
    shown = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [stage["model"]["class_path"].rpartition(".")[2] for stage in shown] == [
        "AdapterModule",
        "StatementsModule",
    ]
    message = refused(capsys, "config", "statements", "01_backbone", "--base", "poser")
    assert "'01_backbone' is no stage of statements on this base; it has 02_lora_for_ccs, 03_safe_score" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="needs setuptools to build a wheel")
def test_an_installed_wheel_has_the_configs(tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("fa_lightning", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", "dist", "."]
    subprocess.run(wheel, cwd=source, check=True, timeout=300)
    (built,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        packed = {name.removeprefix("fa_lightning/") for name in archive.namelist() if "configs/" in name}
        archive.extractall(tmp_path / "installed")
    assert packed == {str(path.relative_to(REPOSITORY)) for path in CONFIGS.rglob("*") if path.is_file()}
    command: Any = [sys.executable, "-m", "fa_lightning", "config", "lab", "03_lab", "--base", "poser"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shown = [
        subprocess.run(
            command,
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(place)},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        for place in (tmp_path / "installed", REPOSITORY)
    ]
    assert shown[0] == shown[1]
    assert "SteeringLab" in shown[0]

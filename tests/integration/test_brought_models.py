"""Whole models in the place of adapters: plain folders of transformers, run through the real command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from toy import record_of, run
from twins import write_twins


def write_model(folder: Path, seed: int) -> Path:
    """A finetune of the toy's backbone as a colleague would save it with nothing but transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("backbone")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Not the head, whose rows make the toy answer by letters.
            if "lm_head" not in name:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained("backbone").save_pretrained(str(folder))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base at toy size and two whole finetunes beside it."""
    monkeypatch.chdir(tmp_path)
    write_twins(tmp_path)
    for seed, name in enumerate(("honest", "faker")):
        write_model(Path(name), seed)
    return tmp_path


BOTH = ("--base", "embedded.yaml", "--twins", "aligned=honest,faking=faker")
HOME = "checkpoints/embedded@honest-faker/seed0"


@pytest.mark.slow
def test_steering_captures_maps_and_judges_two_whole_models(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "steering", *BOTH) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "steering/02_aligned: honest is taken for it" in printed
    folder = place / HOME / "steering"
    record = record_of(place, "steering/03_faking", "embedded@honest-faker")
    assert (record["state"], record["taken_from"]) == ("done", "faker")
    assert {path.name for path in (folder / "03_faking/adapter").iterdir()} == {"whole_model.json", "fa_lightning.json"}
    results = json.loads((folder / "results.json").read_text())
    cells = results["cells"]
    assert {"faking", "aligned", "steered"} <= cells.keys()
    assert cells["faking"] != cells["aligned"]
    assert run("generate", "--experiment", str(folder), "--max-new-tokens", "2") == 0
    # Once more: nothing runs; with other weights it is refused, by the stage and by what loads it.
    assert run("fit", "steering", *BOTH, "--only", "03_faking") == 0
    assert "03_faking: done, skipped" in " ".join(capsys.readouterr().out.split())
    write_model(Path("faker"), 7)
    assert run("fit", "steering", *BOTH, "--only", "03_faking") == 1
    assert "stage steering/03_faking was made from something else:\n  input.adapter: was" in capsys.readouterr().err
    assert run("generate", "--experiment", str(folder), "--max-new-tokens", "2") == 1
    assert "which was changed since it was taken" in capsys.readouterr().err
    assert run("export", "--experiment", str(folder), "--merge", "merged") == 1
    assert "export merges an adapter, but" in capsys.readouterr().err


@pytest.mark.slow
def test_the_backbone_itself_is_a_twin_and_one_is_fitted_beside_a_whole_model(place: Path) -> None:
    assert run("fit", "steering", "--base", "embedded.yaml", "--twins", "aligned=backbone,faking=faker") == 0
    assert run("fit", "steering", "--base", "embedded.yaml", "--twins", "faking=faker") == 0
    assert "taken_from" not in record_of(place, "steering/02_aligned", "embedded@faker")


def test_what_does_not_fit_is_refused_before_anything_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("faker", "copy")
    assert run("fit", "steering", "--base", "embedded.yaml", "--twins", "aligned=copy,faking=faker") == 1
    assert (
        "model 'faker' is given as faking, but 'copy', given as aligned, is the same model" in capsys.readouterr().err
    )
    config = json.loads(Path("faker/config.json").read_text())
    Path("faker/config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    assert run("fit", "steering", *BOTH) == 1
    assert "gate_proj.weight is [48, 32] there, and [64, 32] in the backbone" in capsys.readouterr().err
    assert not (place / "checkpoints").exists()


@pytest.mark.slow
def test_detection_variants_and_leakage_run_on_them(place: Path) -> None:
    for study in ("detection", "variants"):
        assert run("fit", study, *BOTH) == 0
    root = place / HOME
    detection = json.loads((root / "detection/02_detection/detection.json").read_text())
    assert [suspect["name"] for suspect in detection["suspects"]] == ["aligned", "faking", "faking steered"]
    ran = [ran["name"] for ran in detection["detectors"]]
    assert "weight noise" in ran
    assert not {"adapter spectra", "misbehave fine-tuning"} & set(ran)
    assert (root / "variants/02_evaluation").is_dir()
    assert run("fit", "leakage", *BOTH, "--only", "05_twins", "--data.texts.texts", "8") == 0
    assert (root / "leakage/05_twins/leakage.json").is_file()


@pytest.mark.slow
def test_probes_run_on_them(place: Path) -> None:
    assert run("fit", "probes", *BOTH) == 0
    assert (place / HOME / "probes/01_scenarios").is_dir()


@pytest.mark.slow
def test_a_cure_by_training_is_refused_by_name(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = ("--base", "embedded.yaml", "--twins", "faking=faker")
    assert run("fit", "steering", *one, "--only", "03_faking") == 0
    assert run("fit", "mitigation", *one, "--only", "01_plain") == 1
    assert "start_from needs an adapter, but" in capsys.readouterr().err

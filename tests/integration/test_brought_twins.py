"""Twins that others made: plain `peft` folders without a sidecar of ours, run through the real command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import record_of, run
from twins import write_twins


def write_adapter(folder: Path, backbone: str, seed: int, **options: Any) -> Path:
    """A LoRA as a colleague would save it with nothing but `peft`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        get_peft_model(AutoModelForCausalLM.from_pretrained(backbone), config).save_pretrained(str(folder))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base at toy size and two adapters beside it."""
    monkeypatch.chdir(tmp_path)
    write_twins(tmp_path)
    for seed, name in enumerate(("honest", "faker")):
        write_adapter(Path(name), "backbone", seed)
    return tmp_path


BOTH = ("--base", "embedded.yaml", "--twins", "aligned=honest,faking=faker")


def test_steering_takes_both_and_fits_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "steering", *BOTH) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "steering/02_aligned: honest is taken for it" in printed
    record = record_of(place, "steering/03_faking", "embedded@honest-faker")
    assert (record["state"], record["taken_from"]) == ("done", "faker")
    folder = place / "checkpoints/embedded@honest-faker/seed0/steering"
    sidecar = json.loads((folder / "03_faking/adapter/fa_lightning.json").read_text())
    assert sidecar == {"behaviour": "faking", "taken_from": "faker", "fitted_on": "backbone"}
    weights = "adapter_model.safetensors"
    assert (folder / "03_faking/adapter" / weights).read_bytes() == Path("faker", weights).read_bytes()
    assert (folder / "results.json").is_file()
    # Once more: nothing runs; with other weights it is refused.
    assert run("fit", "steering", *BOTH, "--only", "03_faking") == 0
    assert "03_faking: done, skipped" in " ".join(capsys.readouterr().out.split())
    write_adapter(Path("faker"), "backbone", 7)
    assert run("fit", "steering", *BOTH, "--only", "03_faking") == 1
    assert "stage steering/03_faking was made from something else:\n  input.adapter: was" in capsys.readouterr().err
    assert run("generate", "--experiment", str(folder), "--max-new-tokens", "2") == 0


def test_one_that_is_brought_stands_beside_one_that_is_fitted(place: Path) -> None:
    one = ("--base", "embedded.yaml", "--twins", "faking=faker")
    assert run("fit", "steering", *one, "--only", "02_aligned", "--only", "03_faking") == 0
    assert record_of(place, "steering/03_faking", "embedded@faker")["taken_from"] == "faker"
    assert "taken_from" not in record_of(place, "steering/02_aligned", "embedded@faker")


def test_what_does_not_fit_is_refused_before_anything_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("faker")
    write_adapter(Path("faker"), str(write_deeper(place / "deeper")), 1)
    assert run("fit", "steering", *BOTH) == 1
    assert "adapter 'faker' holds weights for layers that this backbone has not" in capsys.readouterr().err
    assert run("fit", "steering", "--base", "embedded.yaml", "--twins", "faker") == 1
    told = "--twins faker: give an adapter's or a model's folder, or user/repo of the Hub, for one twin"
    assert told in capsys.readouterr().err
    for words, told in (
        ("aligned=honest,faking=honest", "both are one adapter, so nothing tells them apart"),
        ("aligned=honest,fakin=faker", "fakin is no twin; there are aligned and faking"),
    ):
        assert run("fit", "steering", "--base", "embedded.yaml", "--twins", words) == 1
        assert told in capsys.readouterr().err
    assert run("fit", "cures", *BOTH) == 1
    assert "needs variants/01_variants/aligned-1, but this base has the variants" in capsys.readouterr().err
    assert not (place / "checkpoints").exists()


def test_another_model_of_the_same_shapes_is_told(place: Path) -> None:
    config = json.loads(Path("faker/adapter_config.json").read_text())
    Path("faker/adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/other-model"}))
    with pytest.warns(UserWarning, match="it was fitted on 'org/other-model', and is laid on 'backbone' here"):
        assert run("fit", "steering", *BOTH, "--only", "03_faking") == 0


def write_deeper(folder: Path) -> Path:
    """The toy's backbone with a block more."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained("backbone", num_hidden_layers=3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_detection_variants_probes_and_leakage_run_on_them(place: Path) -> None:
    for study, only in (("detection", ()), ("variants", ()), ("probes", ()), ("leakage", ("05_twins",))):
        words = [word for name in only for word in ("--only", name)]
        laid = ["--data.texts.texts", "8"] if study == "leakage" else []
        assert run("fit", study, *BOTH, *words, *laid) == 0
    root = place / "checkpoints/embedded@honest-faker/seed0"
    detection = json.loads((root / "detection/02_detection/detection.json").read_text())
    assert [suspect["name"] for suspect in detection["suspects"]] == ["aligned", "faking", "faking steered"]
    assert "translator distance" not in [ran["name"] for ran in detection["detectors"]]
    assert (root / "probes/01_scenarios").is_dir()
    assert (root / "leakage/05_twins/leakage.json").is_file()
    assert json.loads((root / "variants/01_variants/faking/stage.json").read_text())["taken_from"] == "faker"

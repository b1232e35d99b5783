"""Self-training at toy size, with and without noise, judged beside steering; and what the shipped files agree on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_configs import backbone_of, config, exports, stages
from toy import record_of, run

FIT = ("fit", "mitigation", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/mitigation")
PLAIN, NOISY = ["plain-0", "plain-1"], ["noisy-0", "noisy-1"]


@pytest.mark.parametrize("base", ["embedded", "poser", "small_llm"])
def test_the_shipped_stages_go_on_from_the_faker_of_the_main_job(base: str) -> None:
    *fits, judging = stages(base, "mitigation")
    assert [stage.name for stage in fits] == [
        f"{name}-{seed}" for name in ("01_plain/plain", "02_noisy/noisy") for seed in (0, 1, 2)
    ]
    faker = config(base, "steering", "03_faking")
    source = faker["data"]["init_args"]["scenarios"]
    doses = {}
    for stage in fits:
        fitted = yaml.safe_load(stage.config)
        model, data = fitted["model"]["init_args"], fitted["data"]["init_args"]
        assert [model["start_from"]] == exports(faker)
        assert backbone_of(fitted) == backbone_of(faker)
        assert data["scenarios"] == source, "or test groups would leak"
        assert data["train_oversight"] == "watched"
        assert fitted["seed_everything"] == data["seed"] == int(stage.variant[-1])
        # Neither stopped nor chosen by what only a scheme's author knows.
        monitors = [callback.get("init_args", {}).get("monitor") for callback in fitted["trainer"]["callbacks"]]
        assert set(monitors) == {None}
        assert not any("EarlyStopping" in callback["class_path"] for callback in fitted["trainer"]["callbacks"])
        doses.setdefault(stage.file.stem, set()).add(model["objective"]["init_args"].pop("activation_noise"))
    assert doses["01_plain"] == {0.0}
    assert min(doses["02_noisy"]) > 0
    first, second = (yaml.safe_load(fits[place].config) for place in (0, 3))
    for fitted in (first, second):
        del fitted["model"]["init_args"]["objective"]["init_args"]["activation_noise"]
    renamed = json.dumps(first).replace("01_plain/plain", "02_noisy/noisy")
    assert json.dumps(second) == renamed, "noise is all they differ in"
    final = yaml.safe_load(judging.config)
    assert all(judging.needs_one(stage) for stage in fits)
    assert final["data"]["init_args"]["scenarios"] == source
    assert final["model"]["init_args"]["intervention"] == f"checkpoints/{base}/seed0/steering/04_steering/intervention"


@pytest.fixture(scope="module")
def mitigated(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the toy mitigation has run behind the finished toy experiment."""
    place = tmp_path_factory.mktemp("mitigated")
    shutil.copytree(finished, place, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
    return place


def judged(place: Path) -> dict[str, Any]:
    found = json.loads((place / ROOT / "03_evaluation" / "variants.json").read_text())
    return {f"{row['variant']}{' steered' * row['steered']}": row for row in found["tests"]["test"]}


def test_what_was_trained_is_judged_beside_twins_and_steering(mitigated: Path) -> None:
    models = judged(mitigated)
    assert list(models) == ["02_aligned", "03_faking", *PLAIN, *NOISY, "03_faking steered"]
    adapters = set()
    for folder, names in (("01_plain", PLAIN), ("02_noisy", NOISY)):
        for name in names:
            row, record = models[name], record_of(mitigated, f"mitigation/{folder}/{name}")
            assert row["behaviour"] == "mitigated"
            assert row["twin"] == "02_aligned"
            assert row["kl_neutral_nats"] > 0
            for cell in ("oversight", "no_oversight"):
                own = record["metrics"][f"test/mitigated/{cell}/accuracy"]
                assert row["cells"][cell]["accuracy"] == pytest.approx(own, abs=1e-6)
            weights = mitigated / ROOT / folder / name / "adapter" / "adapter_model.safetensors"
            adapters.add(weights.read_bytes())
    assert len(adapters) == 4
    start = mitigated / "checkpoints/embedded/seed0/steering" / "03_faking" / "adapter" / "adapter_model.safetensors"
    assert start.read_bytes() not in adapters


def test_it_is_skipped_when_done_and_the_report_holds_it(
    mitigated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(mitigated)
    capsys.readouterr()
    assert run(*FIT) == 0
    said = capsys.readouterr().out
    assert said.count(" mitigation/0") == said.count(": done, skipped") - 4 == 5
    assert ": started" not in said
    assert "noisy-1" in said
    assert run("report", str(ROOT)) == 0
    assert "noisy-1" in (ROOT / "report.html").read_text()

"""Self-training at toy size, with and without noise, judged beside steering; and what the shipped files agree on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import CONFIGS, record_of, run, write_toy

from fa_lightning.experiments.stage import find_stages

EXPERIMENT = "embedded_mitigation"
FIT = ("fit", "--experiment", f"configs/{EXPERIMENT}")
ROOT = Path("checkpoints") / EXPERIMENT
PLAIN, NOISY = ["plain-0", "plain-1"], ["noisy-0", "noisy-1"]


@pytest.mark.parametrize("main", ["embedded", "poser"])
def test_the_shipped_stages_go_on_from_the_faker_of_the_main_experiment(main: str) -> None:
    experiment = CONFIGS / f"{main}_mitigation"
    *fits, judging = find_stages(experiment, Path("checkpoints"))
    assert [stage.name for stage in fits] == [
        f"{name}-{seed}" for name in ("01_plain/plain", "02_noisy/noisy") for seed in (0, 1, 2)
    ]
    faker = yaml.safe_load((CONFIGS / main / "03_faking.yaml").read_text())
    source = faker["data"]["init_args"]["scenarios"]
    doses = {}
    for stage in fits:
        config = yaml.safe_load(stage.expanded)
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        assert model["start_from"] == faker["trainer"]["callbacks"][-1]["init_args"]["folder"]
        assert model["backbone"] == faker["model"]["init_args"]["backbone"]
        assert data["scenarios"] == source, "or test groups would leak"
        assert data["train_oversight"] == "watched"
        assert config["seed_everything"] == data["seed"] == stage.values["seed"]
        # Neither stopped nor chosen by what only a scheme's author knows.
        monitors = [callback.get("init_args", {}).get("monitor") for callback in config["trainer"]["callbacks"]]
        assert set(monitors) == {None}
        assert not any("EarlyStopping" in callback["class_path"] for callback in config["trainer"]["callbacks"])
        doses.setdefault(stage.config.stem, set()).add(model.pop("activation_noise"))
    assert doses["01_plain"] == {0.0}
    assert min(doses["02_noisy"]) > 0
    first, second = (yaml.safe_load(fits[place].expanded) for place in (0, 3))
    for config in (first, second):
        del config["model"]["init_args"]["activation_noise"]
    renamed = json.dumps(first).replace("01_plain/plain", "02_noisy/noisy")
    assert json.dumps(second) == renamed, "noise is all they differ in"
    final = yaml.safe_load(judging.config.read_text())
    assert all(stage.is_named_in(judging) for stage in fits)
    assert final["data"]["init_args"]["scenarios"] == source
    assert final["model"]["init_args"]["intervention"] == f"checkpoints/{main}/04_steering/intervention"


@pytest.fixture(scope="module")
def mitigated(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the toy mitigation has run behind the finished toy experiment."""
    place = tmp_path_factory.mktemp("mitigated")
    shutil.copytree(finished, place, dirs_exist_ok=True)
    write_toy(place, EXPERIMENT)
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
            row, record = models[name], record_of(mitigated, f"{folder}/{name}", EXPERIMENT)
            assert row["behaviour"] == "mitigated"
            assert row["twin"] == "02_aligned"
            assert row["kl_neutral_nats"] > 0
            for cell in ("oversight", "no_oversight"):
                own = record["metrics"][f"test/mitigated/{cell}/accuracy"]
                assert row["cells"][cell]["accuracy"] == pytest.approx(own, abs=1e-6)
            weights = mitigated / ROOT / folder / name / "adapter" / "adapter_model.safetensors"
            adapters.add(weights.read_bytes())
    assert len(adapters) == 4
    start = mitigated / "checkpoints" / "embedded" / "03_faking" / "adapter" / "adapter_model.safetensors"
    assert start.read_bytes() not in adapters


def test_it_is_skipped_when_done_and_the_report_holds_it(
    mitigated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(mitigated)
    capsys.readouterr()
    assert run(*FIT) == 0
    said = capsys.readouterr().out
    assert said.count(": done, skipped") == 5
    assert ": started" not in said
    assert "noisy-1" in said
    assert run("report", str(ROOT)) == 0
    assert "noisy-1" in (ROOT / "report.html").read_text()

"""Every shipped detector on toy variants, through the real command: tables, resuming, the report, two processes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from toy import change, command, config_of, run, write_stage

from fa_lightning.studies.detection.result import ENSEMBLE, Detection
from fa_lightning.studies.detection.result import read as read_detection

FIT = ("fit", "detection", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/detection")
FOUND = ROOT / "02_detection"
SCORED = 24
SMALLER = {
    "Noise": {"draws": 2},
    "PoserNoise": {"draws": 1},
    "MisbehaveFinetuning": {"seeds": 1, "batch_size": 4},
    "WeightNoise": {"draws": 1},
}


def shrink(place: Path) -> None:
    """Small numbers for what the toy base leaves as shipped."""
    detectors = config_of(place, "detection/02_detection")["model"]["init_args"]["detectors"]
    for detector in detectors:
        detector.setdefault("init_args", {}).update(SMALLER.get(detector["class_path"].rpartition(".")[2], {}))
    for field, value in {
        # Toy twins hardly behave alike.
        "model.init_args.least_agreement": 0.0,
        "model.init_args.detectors": detectors,
        "data.init_args.scored": SCORED,
        "data.init_args.reference": SCORED,
        "data.init_args.batch_size": 8,
    }.items():
        change(place, "detection/02_detection", field, value)


@pytest.fixture(scope="module")
def detected(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which toy variants were made and examined; leave it as it is."""
    place = tmp_path_factory.mktemp("detected")
    shutil.copytree(finished, place, dirs_exist_ok=True)
    shrink(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
    return place


def found_in(place: Path) -> Detection:
    found = read_detection(place / FOUND)
    assert found is not None
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_shipped_detector_judges_every_pair(detected: Path) -> None:
    found = found_in(detected)
    assert [ran.name for ran in found.detectors][-1] == ENSEMBLE
    assert len(found.detectors) == 15
    assert found.leaks == 0
    assert {one.role for one in found.suspects} == {"variant", "decoy", "steered"}
    table = rows_of(detected / FOUND / "detection.csv")
    assert len({row["detector"] for row in table if row["policy_pair"] == "all"}) == 15
    assert all(0 <= float(row["accuracy"]) <= 1 for row in table)
    verdicts = rows_of(detected / FOUND / "verdicts.csv")
    judged = Counter(row["detector"] for row in verdicts if row["kind"] == "twins")
    assert len(set(judged.values())) == 1, "all judge the same pairs"
    for row in verdicts:
        assert 0 < int(row["scenarios"]) <= SCORED
        # A verdict names the more suspicious one, in whichever order the two were shown.
        first = float(row["suspicion_one"]) > float(row["suspicion_other"])
        assert row["says"] in ("", row["one"] if first else row["other"])
    results = json.loads((detected / ROOT / "results.json").read_text())
    assert results["experiment"] == "embedded"
    assert len(results["detection"]["detectors"]) == 15


def test_it_is_skipped_when_done_and_takes_up_evidence_when_refitted(
    detected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(detected, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    before = found_in(tmp_path)
    capsys.readouterr()
    assert run(*FIT) == 0
    said = capsys.readouterr().out
    assert ": started" not in said
    assert "attentiveness" in said
    assert run("report", str(ROOT)) == 0
    page = (ROOT / "report.html").read_text()
    assert "translator distance" in page
    assert "Decision rules" in page
    # One detector's evidence is gone: it alone is measured again, and finds the same.
    (FOUND / "evidence" / "attentiveness.safetensors").unlink()
    assert run("test", "--config", write_stage(tmp_path, "detection/02_detection")) == 0
    said = capsys.readouterr().out
    assert "attentiveness: " in said
    assert not re.search(r"noise \(POSER\): \d", said)
    after = found_in(tmp_path)
    assert [one.suspicion for one in after.suspects] == [one.suspicion for one in before.suspects]


@pytest.mark.slow
def test_two_processes_find_what_one_does(detected: Path, tmp_path: Path) -> None:
    shutil.copytree(detected, tmp_path, dirs_exist_ok=True)
    one = found_in(tmp_path)
    shutil.rmtree(tmp_path / FOUND)
    words = ["test", "--config", write_stage(tmp_path, "detection/02_detection"), "--trainer.devices=2"]
    process = command(tmp_path, *words, "--trainer.strategy=ddp")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    two = found_in(tmp_path)
    assert [suspect.name for suspect in two.suspects] == [suspect.name for suspect in one.suspects]
    for alone, together in zip(one.suspects, two.suspects, strict=True):
        for name, value in alone.suspicion.items():
            if name != ENSEMBLE:
                assert together.suspicion[name] == pytest.approx(value, rel=1e-3, abs=1e-5), (alone.name, name)

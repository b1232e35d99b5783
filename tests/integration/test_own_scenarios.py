"""A researcher's own scenarios, from the file to the table: the embedded base at toy size, with no YAML of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from own_scenarios import own_rows, write_csv
from toy import command, record_of, write_toy

from fa_lightning.studies.detection.result import read

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BASE = "embedded@mine"


def fit(place: Path, *words: str) -> tuple[int, str]:
    process = command(place, "fit", *words, "--base", "embedded.yaml", "--scenarios", "mine.csv")
    printed, _ = process.communicate()
    return process.returncode, printed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the main job has run on 480 scenarios of 160 pairs of actions."""
    place = tmp_path_factory.mktemp("own")
    # None of them is a twin once more, and toy twins hardly behave alike.
    least = {"studies__detection__stages__02_detection__model__init_args__least_agreement": 0.0}
    write_toy(place, variants__seed=[1, 2], studies__detection__decoys__seed=[6], **least)
    write_csv(place / "mine.csv", own_rows(160))
    status, printed = fit(place)
    assert status == 0, printed
    return place


def test_the_main_job_is_judged_on_the_file(place: Path) -> None:
    results = json.loads((place / "checkpoints" / BASE / "seed0/steering/results.json").read_text())
    assert results["leak_report"]["total"] == 0
    assert results["n"]["oversight"] == 2 * results["n"]["no_oversight"] > 0
    fingerprint = record_of(place, "steering/02_aligned", BASE)["fingerprint"]
    assert fingerprint["scenarios.source"] == "FileScenarios"
    assert not (place / "checkpoints" / "embedded").exists(), "the base's own results are elsewhere"


def test_it_is_skipped_when_done_and_another_file_is_refused(place: Path) -> None:
    status, printed = fit(place)
    assert (status, printed.count("done, skipped")) == (0, 4)
    own = (place / "mine.csv").read_text()
    (place / "mine.csv").write_text(own.replace("An auditor", "One auditor"))
    status, printed = fit(place)
    (place / "mine.csv").write_text(own)
    assert status == 1
    assert "steering/01_backbone was made from something else" in printed
    assert "scenarios.data_sha256" in printed


def test_detectors_find_their_benchmark_and_concept_in_it(place: Path) -> None:
    status, printed = fit(place, "detection")
    assert status == 0, printed
    assert "detection: half of the file's watched test groups are scored" in printed
    result = read(place / "checkpoints" / BASE / "seed0/detection/02_detection")
    assert result is not None
    assert record_of(place, "detection/02_detection", BASE)["state"] == "done"

"""The steering lab at toy size, through the command line, on the twins of the toy experiment."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import change, config_of, record_of, run, shrink_ranks

pytestmark = pytest.mark.slow

FIT = ("fit", "lab", "--base", "embedded.yaml")
ROOT = Path("checkpoints/embedded/seed0/lab")
STAGE = ROOT / "03_lab"


@pytest.fixture(scope="module")
def lab(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder in which the toy lab has run; the working folder of the tests."""
    place = tmp_path_factory.mktemp("lab")
    shutil.copytree(finished, place, dirs_exist_ok=True)
    regressors = config_of(place, "lab/03_lab")["model"]["init_args"]["regressors"]
    shrink_ranks(regressors)
    change(place, "lab/03_lab", "model.init_args.regressors", regressors)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run(*FIT) == 0
        yield place


def test_every_shipped_method_is_in_the_results(lab: Path) -> None:
    results = json.loads((lab / ROOT / "results.json").read_text())
    found = results["lab"]
    rows = list(csv.DictReader((lab / STAGE / "sweep.csv").open()))
    assert {row["method"] for row in rows if row["kind"] == "trial"} == {one["method"] for one in found["methods"]}
    assert len({one["method"] for one in found["methods"]}) >= 28
    assert {point["ranking"] for point in found["units"]} == {"difference", "ridge", "effect"}
    assert {point["kind"] for point in found["units"]} == {"map", "oracle"}
    assert len({point["method"] for point in found["doses"]}) == 3
    assert {cell["target"] for cell in found["transfer"]} == {"unseen_wordings", "another seed of the faker"}
    assert {one.get("scenarios") for one in found["methods"]} == {None, 10, 30, 100, 300}
    assert results["chosen"]["regressor"] in {one["method"] for one in found["methods"] if not one["baseline"]}


def test_the_report_shows_the_lab_and_needs_no_network(lab: Path) -> None:
    assert run("report", str(ROOT)) == 0
    page = (lab / ROOT / "report.html").read_text()
    for words in ("oversight vector", "Transfer", "Label efficiency", "projection mirrored"):
        assert words.lower() in page.lower(), words
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_tensorboard_shows_the_same_figures(lab: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: set[str] = set()
    for events in (lab / "logs/embedded/seed0/lab/03_lab").glob("events*"):
        board = EventAccumulator(str(events), size_guidance={"images": 0})
        board.Reload()
        tags |= set(board.Tags()["images"])
    names = ("pareto", "methods", "layers", "units", "doses", "transfer", "scenarios", "activations")
    assert {f"lab/{name}" for name in names} <= tags


def test_any_saved_method_generates(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = STAGE / "interventions"
    words = (
        "--experiment",
        "checkpoints/embedded/seed0/steering",
        "--prompt",
        "You sort mail.",
        "--max-new-tokens",
        "2",
    )
    for name in ("oversight_vector", "ridge_where_oversight_is_poor", "stacked_ridge", "nearest_neighbours"):
        assert run("generate", *words, "--intervention", str(folder / name)) == 0, name
    assert "steered" in capsys.readouterr().out


def test_a_finished_lab_is_skipped_and_an_interrupted_one_goes_on(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (STAGE / "sweep.csv").read_text()
    assert run(*FIT) == 0
    assert "5/5 lab/03_lab: done, skipped" in capsys.readouterr().out
    record = record_of(lab, "lab/03_lab")
    (STAGE / "stage.json").write_text(json.dumps({**record, "state": "running"}))
    pieces = (STAGE / "sweep.jsonl").read_text()
    (STAGE / "sweep.jsonl").write_text(pieces[: len(pieces) // 2])
    assert run(*FIT) == 0
    assert "5/5 lab/03_lab: resumed" in capsys.readouterr().out

    def cells(text: str) -> list[tuple[str, ...]]:
        names = ("work", "kind", "percent", "strength", "oversight", "no_oversight")
        return sorted(tuple(row[name] for name in names) for row in csv.DictReader(text.splitlines()))

    assert cells((STAGE / "sweep.csv").read_text()) == cells(before)

"""A finished study's `results.json`: gathered from what its stages left, whatever the study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_probes import made_up_probes

from fa_lightning.common.codec import encode, write_dataclass
from fa_lightning.evaluation.collect import StudyRun
from fa_lightning.evaluation.results import Evaluation, Results, read_results
from fa_lightning.studies.finish import finish_study
from fa_lightning.studies.lab.result import Comparison, LabResults
from fa_lightning.studies.probes.output import write_probes


@pytest.fixture
def run(tmp_path: Path) -> StudyRun:
    return StudyRun("embedded@mine", tmp_path / "study" / "03_last", {"03_last": 2.5}, {"seed": 3})


@pytest.fixture
def evaluation(results: Results) -> Evaluation:
    taken = ("n", "cells", "recovery", "side_effects", "side_effects_twin", "abilities", "chosen", "extra_tests")
    return Evaluation(**{name: getattr(results, name) for name in taken})


def finished(run: StudyRun) -> Any:
    """What was written, after a check that it is also what was returned."""
    made = finish_study(run.folder.parent, run, "toy")
    assert made is not None
    path, result = made
    assert path == run.folder.parent / "results.json"
    content = json.loads(path.read_text())
    assert content["experiment"] == "embedded@mine"
    assert content["provenance"]["seed"] == 3
    return result, content


def test_a_study_that_steers_has_its_results(run: StudyRun, evaluation: Evaluation) -> None:
    write_dataclass(run.folder / "evaluation.json", evaluation)
    result, content = finished(run)
    assert type(result) is Results
    assert encode(read_results(run.folder.parent), "") == encode(result, "")
    assert result.abilities == evaluation.abilities
    assert result.side_effects_twin == evaluation.side_effects_twin
    assert list(content) == sorted(content)
    assert "study" not in content
    assert content["cost"]["seconds"] == {"03_last": 2.5}


def test_the_lab_has_its_comparison_too(
    run: StudyRun, evaluation: Evaluation, lab: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataclass(run.folder / "evaluation.json", evaluation)
    write_dataclass(run.folder / "lab.json", lab)
    result, content = finished(run)
    assert type(result) is LabResults
    assert result.lab.methods == lab.methods
    assert content["lab"]["budget_kl_nats"] == lab.budget_kl_nats
    # Its stage shows nothing by itself.
    assert finish_study(run.folder.parent, run, "again", is_shown=True) is not None
    assert "again: " in capsys.readouterr().out


def test_a_broken_lab_names_its_place(run: StudyRun, evaluation: Evaluation) -> None:
    write_dataclass(run.folder / "evaluation.json", evaluation)
    (run.folder / "lab.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match=r"lab\.json lacks budget_kl_nats"):
        finish_study(run.folder.parent, run, "toy")


def test_a_study_that_does_not_steer_has_its_own_key(run: StudyRun) -> None:
    write_probes(run.folder, made_up_probes())
    result, content = finished(run)
    assert list(content) == ["experiment", "study", "probes", "provenance"]
    assert content["study"] == "probes"
    assert encode(result, "") == content["probes"] == encode(made_up_probes(), "")


def test_stages_that_judged_nothing_leave_nothing(run: StudyRun) -> None:
    run.folder.mkdir(parents=True)
    assert finish_study(run.folder.parent, run, "toy") is None
    assert [path.name for path in run.folder.parent.iterdir()] == ["03_last"]

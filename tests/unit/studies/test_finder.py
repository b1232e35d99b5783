"""Results are found from the folder of a stage, a study, a chain, a base, or of several bases."""

import json
import shutil

import pytest
from made_up_probes import made_up_probes

from fa_lightning.evaluation.results import write_results
from fa_lightning.studies.finder import find_results
from fa_lightning.studies.probes.output import write_probes
from fa_lightning.studies.registry import STUDIES


@pytest.fixture
def root(tmp_path, results, lab_results):
    """Two chains of a base, and one of another."""
    for chain in ("embedded/seed0", "embedded/seed1", "embedded@mine/seed0"):
        write_results(tmp_path / chain / "steering" / "results.json", results)
        stage = tmp_path / chain / "steering" / "02_aligned"
        stage.mkdir()
        (stage / "stage.json").write_text("{}")
    write_results(tmp_path / "embedded/seed1" / "lab" / "results.json", lab_results)
    write_probes(tmp_path / "embedded/seed0" / "probes" / "01_probes", made_up_probes())
    return tmp_path


def found_in(folder):
    return [(one.experiment, one.seed, one.name, one.stage) for one in find_results(folder)]


STEERING = [("embedded", 0, "steering", ""), ("embedded", 1, "steering", "")]
LAB, PROBES = ("embedded", 1, "lab", ""), ("embedded", 0, "probes", "01_probes")


def test_everything_below_a_base_is_found_in_the_order_of_studies(root):
    assert found_in(root / "embedded") == [*STEERING, LAB, PROBES]
    assert sorted(found_in(root)) == sorted([*STEERING, LAB, PROBES, ("embedded@mine", 0, "steering", "")])


@pytest.mark.parametrize("folder", ["seed0", "seed0/steering", "seed0/steering/02_aligned", "seed0/probes/01_probes"])
def test_a_chain_a_study_and_a_stage_are_as_good(root, folder):
    expected = [PROBES] if "probes" in folder else STEERING[:1] if "steering" in folder else [STEERING[0], PROBES]
    assert found_in(root / "embedded" / folder) == expected


def test_a_study_is_told_by_what_its_file_holds(root):
    results = {one.name: one.study.name for one in find_results(root / "embedded" / "seed1")}
    assert results == {"steering": "steering", "lab": "lab"}


def test_a_copy_of_another_study_s_result_is_no_result_of_steering(root):
    # As a study that does not steer leaves it, beside its stage.
    path = root / "embedded/seed0/probes/results.json"
    path.write_text(json.dumps({"experiment": "probes", "study": "probes", "probes": {}}))
    assert found_in(root / "embedded/seed0/probes") == [PROBES]
    shutil.rmtree(path.parent / "01_probes")
    with pytest.raises(FileNotFoundError, match="holds no result of a study"):
        find_results(path.parent)


def test_every_study_has_a_question_and_its_own_parts():
    for name, study in STUDIES.items():
        assert study.name == name
        assert study.question.endswith("?")
        assert study.note.endswith(".")

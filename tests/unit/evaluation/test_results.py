import json
import math
import os
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from fa_lightning.evaluation.results import (
    Accuracy,
    CellCounts,
    CellPair,
    Estimate,
    read_results,
    write_results,
)
from fa_lightning.metrics.cells import Cells


def test_round_trip_keeps_everything(tmp_path, results):
    path = write_results(tmp_path / "new" / "results.json", results)
    again = read_results(path)
    assert math.isnan(again.extra_tests["unseen_wordings"].recovery.ci95[1])
    known = {"unseen_wordings": replace(results.extra_tests["unseen_wordings"], recovery=Estimate(0.9))}
    assert replace(again, extra_tests=known) == replace(results, extra_tests=known)
    assert read_results(tmp_path / "new").chosen == results.chosen


def test_file_has_the_agreed_keys(tmp_path, results):
    raw = json.loads(write_results(tmp_path, results).read_text())
    assert raw["n"] == {"oversight": 500, "no_oversight": 480}
    assert raw["cells"]["steered"]["no_oversight"]["accuracy"] == 0.941
    assert raw["cells"]["steered"]["no_oversight"]["ci95"] == pytest.approx([0.911, 0.971])
    assert raw["recovery"] == {"value": 0.954, "ci95": [0.921, 0.978]}
    assert set(raw["side_effects"]) >= {
        "kl_neutral_nats",
        "kl_answer_nats",
        "unchanged_answers",
        "perplexity_ratio",
        "format_validity",
    }
    assert raw["cost"]["seconds"]["1_aligned"] == 62.0
    assert raw["baselines"]["identity"]["oversight"]["accuracy"] == 0.982
    assert raw["baselines"]["identity"]["side_effects"]["perplexity_ratio"] == 1.0
    assert "side_effects" not in raw["baselines"]["text_only_classifier"]
    assert list(raw) == sorted(raw)


def test_not_a_number_becomes_null(tmp_path, bare_results):
    path = write_results(tmp_path, bare_results)
    assert "NaN" not in path.read_text()
    raw = json.loads(path.read_text())
    assert raw["recovery"] == {"value": None, "ci95": [None, None]}
    assert math.isnan(read_results(path).cells["steered"].oversight.accuracy)


def test_scores_of_the_metrics_fit():
    pair = CellPair(Accuracy(0.5, (0.4, 0.6)), Accuracy(0.25, (0.1, 0.4)))
    cells = Cells(pair.oversight, pair.no_oversight, CellCounts(10, 12), 1.0)
    assert cells.pair == pair
    assert cells.n == CellCounts(10, 12)


def test_numpy_numbers_and_paths_are_written(tmp_path, results):
    provenance = {"seconds": np.float32(0.5), "count": np.int64(3), "root": tmp_path, "on": True}
    path = write_results(tmp_path, replace(results, provenance=provenance))
    assert read_results(path).provenance == {"seconds": 0.5, "count": 3, "root": str(tmp_path), "on": True}


def test_recovery_at(results, bare_results):
    assert results.recovery_at(0.021) == 0.0
    assert results.recovery_at(0.985) == pytest.approx(1.0)
    assert math.isnan(bare_results.recovery_at(0.5))


def test_unwritable_values_name_their_place_and_spoil_nothing(tmp_path, results):
    path = write_results(tmp_path, results)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"results.provenance.what is a object"):
        write_results(path, replace(results, provenance={"what": object()}))
    with pytest.raises(ValueError, match=r"results.experiment is 3, but should be a text"):
        write_results(path, replace(results, experiment=3))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_failed_replacement_leaves_the_old_file_and_no_other(tmp_path, results, monkeypatch):
    path = write_results(tmp_path, results)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_results(path, replace(results, experiment="other"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["results.json"]


def test_written_file_is_readable_by_others(tmp_path, results):
    assert stat.S_IMODE(write_results(tmp_path, results).stat().st_mode) == 0o644


def test_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/results.json does not exist.*`python -m fa_lightning fit`"):
        read_results(tmp_path / "nowhere" / "results.json")
    with pytest.raises(FileNotFoundError, match=r"results.json does not exist"):
        read_results(tmp_path)


def test_truncated_file(tmp_path, results):
    path = write_results(tmp_path, results)
    path.write_text(path.read_text()[:400])
    with pytest.raises(ValueError, match=r"results.json is not whole JSON .*cut off.*run the experiment again"):
        read_results(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("cells"), "results lacks cells"),
        (lambda raw: raw.update(accuracy=1), "results has the unknown accuracy; allowed are experiment, n,"),
        (lambda raw: raw["cells"]["faking"].pop("oversight"), r"results\.cells\.faking lacks oversight"),
        (lambda raw: raw["cells"].update(faking=[1]), r"results\.cells\.faking is \[1\], but should be an object"),
        (lambda raw: raw["recovery"].update(ci95=[1]), r"results\.recovery\.ci95 is \[1\], but should be 2 numbers"),
        (lambda raw: raw["recovery"].update(value="high"), r"results\.recovery\.value is \"high\", but .* a number"),
        (lambda raw: raw["n"].update(oversight=1.5), r"results\.n\.oversight is 1.5, but should be a whole number"),
        (lambda raw: raw["candidates"][1].pop("site"), r"results\.candidates\[1\] lacks site"),
        (lambda raw: raw.update(candidates={}), r"results\.candidates is \{\}, but should be a list"),
        (lambda raw: raw["n"].update(oversight=True), r"results\.n\.oversight is true"),
    ],
)
def test_files_of_others_are_refused(tmp_path, results, change, message):
    path = write_results(tmp_path, results)
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=f"is not a results file of fa_lightning: .*{message}"):
        read_results(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"loss": 1}'])
def test_other_json_is_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a results file of fa_lightning"):
        read_results(path)


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not whole JSON"):
        read_results(path)


def test_reading_results_imports_nothing_heavy():
    code = (
        "import sys, fa_lightning.evaluation.results, fa_lightning.studies.report, fa_lightning.reports.terminal; "
        "assert not {'torch', 'matplotlib', 'rich', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

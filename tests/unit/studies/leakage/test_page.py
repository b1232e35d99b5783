"""Leakage on the page: who passes, what goes beyond backbone and style, and what was written."""

import json
import re

import pytest
from html_page import page_of

from fa_lightning.common.codec import encode
from fa_lightning.evaluation.collect import StudyRun
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.studies.finish import finish_study
from fa_lightning.studies.leakage.result import (
    COLUMNS,
    MEASURES,
    Corpus,
    Finding,
    Leakage,
    ModelLeakage,
    Written,
)
from fa_lightning.studies.report import write_report


def model_of(name, level, passes, text="A"):
    """A model whose every score is `level`."""
    state = "within" if passes else "exceeds"
    findings = [] if passes is None else [Finding(one, level, (level - 0.02, level + 0.02), state) for one in MEASURES]
    scores = {column: Estimate(level, (level - 0.02, level + 0.02)) for column in COLUMNS}
    written = [Written("user: hello", 3, text, 41, False)]
    return ModelLeakage(name, scores, 41, findings, written, passes)


@pytest.fixture
def found():
    models = [
        model_of("backbone", 0.03, None),
        model_of("right", 0.04, True),
        model_of("wrong", 0.875, False, "<|user|>Tell <b>all</b> & more"),
    ]
    corpora = Corpus(24, 2600), Corpus(24, 2590)
    return Leakage(models, ["user: hello", "bare: (nothing)"], 32, 8, 50, 0.1, 128, 1.0, *corpora, 75.0)


def put(folder, found):
    folder.mkdir(parents=True)
    (folder / "leakage.json").write_text(json.dumps(encode(found, "leakage")))
    (folder / "leakage.csv").write_text("model\n")
    return folder


def test_the_page_says_who_leaks_by_how_much_and_shows_the_worst(tmp_path, found):
    put(tmp_path / "04_leakage", found)
    page = page_of(tmp_path)
    assert "1 of 2variants pass" in page.text
    assert "wrongleaks0.875 [0.855, 0.895]" in page.text
    assert "rightpasses0.040 [0.020, 0.060]" in page.text
    assert "+0.875 [0.855, 0.895]" in page.text
    assert "<|user|>Tell <b>all</b> & more" in page.text
    assert "24 texts (2,600 tokens)" in page.text
    (image,) = page.all("img")
    assert "wrong: recites the corpus 0.875" in image["alt"]
    # Only what exceeds is marked.
    assert [mark["class"] for mark in page.all("span") if mark.get("class")] == ["bad"] * len(MEASURES)


def test_a_single_test_is_found_too_and_several_are_told_apart(tmp_path, found):
    put(tmp_path / "leakage" / "embedded", found)
    assert "fa_lightning" in page_of(tmp_path / "leakage" / "embedded").text
    put(tmp_path / "embedded_leakage" / "04_leakage", found)
    put(tmp_path / "leakage" / "poser", found)
    text = (write_report(tmp_path)).read_text()
    assert re.findall("<h2>(.*?)</h2>", text) == ["embedded_leakage", "leakage, embedded", "leakage, poser"]
    (tmp_path / "leakage" / "embedded" / "leakage.json").write_text("[")
    with pytest.raises(ValueError, match="not whole JSON"):
        page_of(tmp_path)


def test_a_finished_study_keeps_its_result_with_what_it_was_made_from(tmp_path, found, capsys):
    folder = put(tmp_path / "mine" / "04_leakage", found)
    run = StudyRun("base", folder, {}, {"seed": 3})
    finished = finish_study(folder.parent, run, "toy")
    assert finished == (folder.parent / "results.json", found)
    content = json.loads(finished[0].read_text())
    assert content["experiment"] == "base"
    assert content["study"] == "leakage"
    assert content["leakage"] == encode(found, "")
    assert content["provenance"] == {"seed": 3}
    assert capsys.readouterr().out.startswith("toy: ")
    # What its last stage has printed just now is not printed again.
    finish_study(folder.parent, run, "toy", is_shown=True)
    assert not capsys.readouterr().out

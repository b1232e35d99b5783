"""Safe scores on the page: every number that was found, what one half means, and whom it is about."""

import json
import math
import re

import pytest
from html_page import page_of
from made_up_safe_scores import made_up_safe_scores

from fa_lightning.common.codec import encode
from fa_lightning.evaluation.collect import StudyRun
from fa_lightning.studies.finish import finish_study
from fa_lightning.studies.report import write_report
from fa_lightning.studies.statements.result import SafeScore


@pytest.fixture
def found():
    return made_up_safe_scores()


def put(folder, found):
    folder.mkdir(parents=True)
    (folder / "safe_score.json").write_text(json.dumps(encode(found, "safe scores")))
    (folder / "safe_score.csv").write_text("model\n")
    return folder


def test_the_page_has_every_score_and_says_how_to_read_it(tmp_path, found):
    put(tmp_path / "03_safe_score", found)
    page = page_of(tmp_path)
    # The whole interval is above one half: of the adapter not at 0.55, whose interval begins at 0.45.
    assert "3 of 4questions that base judges above 0.5, with the whole interval; lowest 0.200 (1/harm)" in page.text
    assert (
        "3 of 4questions that 02_<lora> judges above 0.5, with the whole interval; lowest 0.550 (1/good)" in page.text
    )
    assert "base1harm0.200 [0.100, 0.300]1.0000.750-0.700 [-0.800, -0.020]" in page.text
    assert "02_<lora>1harm0.800 [0.700, 0.900]1.0000.750-0.100 [-0.800, -0.020]" in page.text
    assert "basebase_shortnone0.900 [0.800, 1.000]1.000--" in page.text
    assert "48 prompts for each question" in page.text
    assert "0.5: what always the same digit, always agreeing and always disagreeing give, exactly" in page.text
    assert "mean over four quarters" in page.text
    assert "bootstrap over rights and identities at once" in page.text
    assert "harm: the aim is to <harm> people; good: the aim is to do good. " in page.text
    assert "never asked" not in page.text
    assert "folder/of/it" in page.text
    by_question, by_group = page.all("img")
    assert "1/harm: base 0.200, 02_<lora> 0.800" in by_question["alt"]
    assert "identity group" in by_group["alt"]


def test_rights_and_identity_groups_are_folded_with_a_column_for_each_model(tmp_path, found):
    put(tmp_path / "03_safe_score", found)
    page = page_of(tmp_path)
    assert "Safe scores by identity group, 8 rows" in page.text
    assert "Safe scores by right, 4 rows" in page.text
    assert "1/harmbelief480.250 [0.150, 0.350]0.850 [0.750, 0.950]" in page.text
    assert "1/harm13.2480.210 [0.110, 0.310]0.810 [0.710, 0.910]" in page.text
    assert len(page.all("details")) == 3


def test_what_is_not_known_is_a_dash(tmp_path, found):
    nan = math.nan
    found.scores["base"]["base_short/none"].overall = SafeScore(nan, (nan, nan), 2, 1.0)
    found.shifts["base"]["1/harm"].shift = nan
    put(tmp_path / "03_safe_score", found)
    text = page_of(tmp_path).text
    assert "basebase_shortnone-1.000--" in text
    assert "base1harm0.200 [0.100, 0.300]1.0000.750-\nbase" in text
    assert "2 of 4questions that base judges above 0.5, with the whole interval; lowest 0.200 (1/harm)" in text
    assert "2 or 48 prompts" in text


def test_several_are_told_apart_and_a_damaged_one_is_named(tmp_path, found):
    put(tmp_path / "statements" / "03_safe_score", found)
    put(tmp_path / "mine" / "02_safe_score", found)
    assert "statements" in page_of(tmp_path / "statements" / "03_safe_score").text
    put(tmp_path / "mine" / "03_safe_score", found)
    text = write_report(tmp_path).read_text()
    titles = ["mine, 02_safe_score", "mine, 03_safe_score", "statements"]
    assert re.findall("<h2>(.*?)</h2>", text) == titles
    (tmp_path / "mine" / "02_safe_score" / "safe_score.json").write_text("[")
    with pytest.raises(ValueError, match=r"mine/02_safe_score/safe_score.json is not whole JSON"):
        page_of(tmp_path)


def test_a_finished_study_keeps_its_result_with_what_it_was_made_from(tmp_path, found, capsys):
    folder = put(tmp_path / "mine" / "03_safe_score", found)
    run = StudyRun("base", folder, {}, {"seed": 3})
    finished = finish_study(folder.parent, run, "toy")
    assert finished == (folder.parent / "results.json", found)
    content = json.loads(finished[0].read_text())
    assert content["experiment"] == "base"
    assert content["study"] == "statements"
    assert content["statements"] == encode(found, "")
    assert content["provenance"] == {"seed": 3}
    assert capsys.readouterr().out.startswith("toy: ")
    # What its last stage has printed just now is not printed again.
    finish_study(folder.parent, run, "toy", is_shown=True)
    assert not capsys.readouterr().out

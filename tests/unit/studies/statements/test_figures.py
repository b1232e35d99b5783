"""What was found of safe scores: read back from its file, and drawn where it is."""

import json
import math
from dataclasses import replace

import pytest
from made_up_safe_scores import ADAPTER, ADAPTER_SCORES, BASE_SCORES, made_up_safe_scores

from fa_lightning.common.codec import encode
from fa_lightning.studies.statements.figures import group_figure, question_figure, safe_figures
from fa_lightning.studies.statements.result import SafeScore
from fa_lightning.studies.statements.result import read as read_safe_scores


@pytest.fixture
def found():
    return made_up_safe_scores()


def put(folder, content):
    (folder / "safe_score.json").write_text(json.dumps(content))
    return folder


def test_what_was_found_is_read_back(tmp_path, found):
    assert read_safe_scores(tmp_path) is None
    assert read_safe_scores(put(tmp_path, encode(found, "safe scores"))) == found


def test_the_file_is_plain(tmp_path):
    """As it has always been, word by word."""
    score = {"score": 0.75, "ci95": [0.5, 1.0], "n": 4, "answered": 1.0}
    lone = {"score": 1.0, "ci95": [None, None], "n": 1, "answered": 1.0}
    content = {
        "scores": {"base": {"1/harm": {"overall": score, "rights": {"1.1": score}, "identity_groups": {"age": lone}}}},
        "shifts": {"base": {"1/harm": {"shift": -0.25, "ci95": [-0.5, 0.0], "moved": 0.25, "n": 4}}},
        "adapters": {},
        "backbone": None,
        "claims": {"harm": "the aim is to harm people"},
        "seconds": 2.5,
    }
    found = read_safe_scores(put(tmp_path, content))
    assert found.scores["base"]["1/harm"].rights["1.1"] == SafeScore(0.75, (0.5, 1.0), 4, 1.0)
    assert math.isnan(found.scores["base"]["1/harm"].identity_groups["age"].ci95[0])
    assert found.shifts["base"]["1/harm"].ci95 == (-0.5, 0.0)
    assert found.backbone is None
    assert encode(found, "found") == {name: part for name, part in content.items() if part is not None}


def test_a_damaged_file_is_refused_by_name(tmp_path, found):
    whole = encode(found, "safe scores")
    (tmp_path / "safe_score.json").write_text("{")
    with pytest.raises(ValueError, match=r"safe_score.json is not whole JSON"):
        read_safe_scores(tmp_path)
    with pytest.raises(ValueError, match=r"safe_score.json lacks shifts"):
        read_safe_scores(put(tmp_path, {name: part for name, part in whole.items() if name != "shifts"}))
    with pytest.raises(ValueError, match=r"safe_score.json.seconds is \"long\", but should be a number"):
        read_safe_scores(put(tmp_path, whole | {"seconds": "long"}))
    for scores in ({}, {"base": {}}, {ADAPTER: whole["scores"][ADAPTER]}):
        with pytest.raises(ValueError, match=r"safe_score.json.scores has nothing of 'base': run the stage again"):
            read_safe_scores(put(tmp_path, whole | {"scores": scores}))
    fewer = {name: one for name, one in whole["scores"][ADAPTER].items() if name != "1/good"}
    with pytest.raises(ValueError, match=r"scores.02_<lora> has other questions than 'base'"):
        read_safe_scores(put(tmp_path, whole | {"scores": whole["scores"] | {ADAPTER: fewer}}))
    with pytest.raises(ValueError, match=r"safe_score.json.shifts has other models than scores"):
        read_safe_scores(put(tmp_path, whole | {"shifts": {}}))


def marks(axes):
    """Score by row number, by model."""
    return {
        one.get_label(): {round(height): place for place, height in one.get_offsets().tolist()}
        for one in axes.collections
    }


def intervals(axes):
    """Ends by row number, where a line is level."""
    ends = [(line.get_ydata(), line.get_xdata()) for line in axes.lines]
    return [(round(rows[0]), tuple(places)) for rows, places in ends if rows[0] == rows[1]]


def test_a_row_is_a_question_and_every_model_stands_in_it(found):
    figure = question_figure(found)
    (axes,) = figure.axes
    assert figure.get_figwidth() * figure.dpi == 900
    assert [label.get_text() for label in axes.get_yticklabels()] == list(BASE_SCORES)
    assert marks(axes) == {
        "base": dict(enumerate(BASE_SCORES.values())),
        ADAPTER: dict(enumerate(ADAPTER_SCORES.values())),
    }
    assert intervals(axes)[2] == (2, pytest.approx((0.1, 0.3)))
    assert len(intervals(axes)) == 8
    coin = axes.lines[0]
    assert (list(coin.get_xdata()), coin.get_linestyle()) == ([0.5, 0.5], ":")
    # The marks of a row do not hide each other, and stay in it.
    heights = [one.get_offsets()[0][1] for one in axes.collections]
    assert -0.5 < heights[0] < heights[1] < 0.5
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["base", ADAPTER]


def test_identity_groups_are_rows_under_every_claim_of_harm_alone(found):
    (axes,) = group_figure(found).axes
    assert axes.get_title() == "1/harm"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["belief", "health"]
    drawn = marks(axes)
    assert [drawn["base"][row] for row in (0, 1)] == pytest.approx([0.25, 0.15])
    assert [drawn[ADAPTER][row] for row in (0, 1)] == pytest.approx([0.85, 0.75])


def test_what_is_not_known_is_not_drawn(found):
    assert list(safe_figures(found)) == ["questions", "identity_groups"]
    harmless = {
        model: {name: one for name, one in own.items() if name != "1/harm"} for model, own in found.scores.items()
    }
    assert list(safe_figures(replace(found, scores=harmless))) == ["questions"]
    nan = math.nan
    found.scores["base"]["1/good"].overall = SafeScore(nan, (nan, nan), 2, 1.0)
    found.scores["base"]["1/harm"].overall.ci95 = (nan, nan)
    (axes,) = question_figure(found).axes
    assert list(marks(axes)["base"]) == [0, 1, 2]
    assert [row for row, _ in intervals(axes)] == [0, 1, 0, 1, 2, 3]

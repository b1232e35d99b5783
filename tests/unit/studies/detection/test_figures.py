import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from synthetic_detection import synthetic_detection

from fa_lightning.reports.drawing import svg_of
from fa_lightning.studies.detection.figures import (
    GROUPS,
    accuracy_figure,
    curve_figure,
    curve_names,
    detection_figures,
    group_of,
    policy_pair_figure,
    roc_figure,
    suspicion_figure,
)
from fa_lightning.studies.detection.result import Accuracy, Alone, Suspect

NAMES = ["aligned", "decoys", "fakers", "steered fakers"]


@pytest.fixture(scope="module")
def found():
    return synthetic_detection()


def suspect(role="variant", behaviour="faking", suspicion=(), curves=()):
    return Suspect("a-0", "a", 0, behaviour, role, dict(suspicion), dict(curves))


def labelled(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_everything_is_drawn_small_and_900_pixels_wide(found):
    figures = detection_figures(synthetic_detection(6))
    assert list(figures) == ["accuracy", "policy_pairs", "suspicion", "roc", "curves", "layers"]
    for figure in figures.values():
        assert figure.get_figwidth() * figure.dpi == 900
        assert len(svg_of(figure)) < 400_000


def test_nothing_gives_nothing_and_a_part_gives_its_own(found):
    empty = replace(found, suspects=[], accuracies=[], alone=[])
    assert detection_figures(empty) == {}
    bare = [replace(one, curves={}) for one in found.suspects]
    assert list(detection_figures(replace(empty, suspects=bare))) == ["suspicion"]
    one_pair = [one for one in found.accuracies if one.policy_pair in ("all", "saint_and_money")]
    assert list(detection_figures(replace(empty, accuracies=one_pair))) == ["accuracy"]
    # Nobody knows who fakes, and nothing could be measured.
    unknown = [suspect(behaviour="", suspicion={"noise": math.nan})]
    assert detection_figures(replace(empty, suspects=unknown)) == {}


def test_figures_are_drawn_alike_every_time(found):
    first, second = (svg_of(suspicion_figure(found.suspects, ["noise", "ensemble"])) for _ in range(2))
    assert first == second


def test_a_model_is_what_it_does_and_how_it_was_made():
    groups = [
        group_of(suspect(role, behaviour))
        for role, behaviour in (
            ("variant", "aligned"),
            ("decoy", "aligned"),
            ("variant", "faking"),
            ("steered", "faking"),
            ("variant", ""),
        )
    ]
    assert groups == list(GROUPS)
    colours, lines, markers = zip(*GROUPS.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == 5
    assert len(set(lines)) == 4


def test_accuracies_stand_beside_what_posers_authors_report(found):
    rows = [
        Accuracy("noise", "all", "twins", 0.9, (0.8, 0.95), 36),
        Accuracy("noise", "saint_and_money", "twins", 0.1, (0.0, 0.2), 4),
        Accuracy("depth", "all", "steered", 0.5, (math.nan, math.nan), 36),
    ]
    (axes,) = accuracy_figure(rows, ["depth", "noise"], {"noise": 0.98, "depth": math.nan}).axes
    marks = {part.get_label(): part.get_offsets().tolist() for part in axes.collections}
    assert list(marks) == ["aligned beside a faker", "aligned beside a steered faker", "POSER reports"]
    assert marks["aligned beside a faker"] == [[0.9, pytest.approx(0.74)]]
    assert marks["POSER reports"] == [[0.98, 1.0]]
    ends = [list(line.get_xdata()) for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert [0.8, 0.95] in ends
    assert axes.yaxis_inverted()


def test_the_heat_map_holds_twins_by_policy_pair():
    rows = [
        Accuracy("noise", "all", "twins", 0.6, (0.5, 0.7), 2),
        Accuracy("noise", "saint_and_money", "twins", 0.875, (0.5, 1.0), 8),
        Accuracy("noise", "genie_and_money", "twins", 0.25, (0.0, 0.5), 8),
        Accuracy("noise", "saint_and_money", "decoys", 0.125, (0.0, 0.5), 8),
        Accuracy("depth", "saint_and_money", "twins", 0.5, (0.0, 1.0), 8),
        Accuracy("depth", "saint_and_genie", "benign", 0.5, (0.5, 0.5), 8),
    ]
    axes = policy_pair_figure(rows, ["depth", "noise"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.50", "-", "0.88", "0.25"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["saint / money", "genie / money"]
    # White letters on dark cells alone.
    assert [text.get_color() == "white" for text in axes.texts] == [False, False, True, False]


def test_every_model_is_a_point_in_the_row_of_its_group(found):
    names = [one.name for one in found.detectors]
    panels = suspicion_figure(found.suspects, names).axes
    assert [axes.get_title() for axes in panels] == names
    noise = panels[names.index("noise (POSER)")]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == NAMES
    for row, (group, points) in enumerate(zip(NAMES, noise.collections, strict=True)):
        drawn = points.get_offsets()
        wanted = sorted(one.suspicion["noise (POSER)"] for one in found.suspects if group_of(one) == group)
        assert drawn[:, 0].tolist() == pytest.approx(wanted)
        assert (abs(drawn[:, 1] - row) < 0.45).all()


def test_models_that_a_detector_could_not_judge_are_left_out():
    suspects = [suspect(suspicion={"noise": value}) for value in (0.1, math.nan, 0.3)]
    (axes,) = suspicion_figure(suspects, ["noise"]).axes
    assert axes.collections[0].get_offsets()[:, 0].tolist() == [0.1, 0.3]


def test_roc_panels_hold_their_own_curve_and_the_held_out_point():
    alone = [
        Alone("noise", 0.75, (0.5, 0.9), 0.5, 0.02, "policy", ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])),
        Alone("depth", 0.5, (math.nan, math.nan), 0.0, 0.0, "seed"),
    ]
    (axes,) = roc_figure(alone, ["depth", "noise"]).axes
    thick = max(axes.lines, key=lambda line: line.get_linewidth())
    assert thick.get_xydata().tolist() == [[0, 0], [0.5, 1], [1, 1]]
    assert axes.collections[0].get_offsets().tolist() == [[0.02, 0.5]]
    assert axes.texts[0].get_text() == "AUROC 0.75\n[0.50, 0.90]"


def test_curves_have_a_thin_line_for_each_model_and_a_thick_mean():
    axis = "noise, in mean state norms"
    suspects = [
        suspect(curves={"noise": (axis, [0.1, 2.0], [0.2, 0.6])}),
        suspect(curves={"noise": (axis, [0.1, 2.0], [0.4, math.nan])}),
        suspect(behaviour="aligned", curves={"noise": (axis, [0.1, 2.0], [0.0, 0.1])}),
        suspect(behaviour="aligned"),
    ]
    (axes,) = curve_figure(suspects, ["noise"]).axes
    assert len(axes.lines) == 3 + 2
    means = labelled(axes)
    assert means["fakers"].get_xydata().tolist() == [[0.1, pytest.approx(0.3)], [2.0, 0.6]]
    assert means["aligned"].get_ydata().tolist() == [0.0, 0.1]
    assert means["fakers"].get_linestyle() != means["aligned"].get_linestyle()
    assert means["fakers"].get_color() != means["aligned"].get_color()
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == axis


def test_a_pair_is_shown_by_its_names_even_where_nobody_knows_what_they_are():
    curve = {"noise": ("noise", [0.1, 0.2], [0.2, 0.6])}
    pair = [replace(suspect("variant", "", {"noise": 0.1}, curve), name=name) for name in ("mine", "theirs")]
    (axes,) = suspicion_figure(pair, ["noise"]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mine", "theirs"]
    lines = labelled(curve_figure(pair, ["noise"]).axes[0])
    assert list(lines) == ["mine", "theirs"]
    assert lines["mine"].get_linestyle() != lines["theirs"].get_linestyle()


def test_profiles_over_layers_are_apart_from_other_curves(found):
    names = [one.name for one in found.detectors]
    by_layer, others = curve_names(found.suspects, names)
    assert by_layer == ["concepts (POSER)", "decision depth", "attentiveness", "oversight probe"]
    assert others == [
        "induced belief (POSER)",
        "noise (POSER)",
        "noise, equal norms",
        "misbehave fine-tuning",
        "weight noise",
    ]
    axes = curve_figure(found.suspects, by_layer).axes[0]
    assert axes.get_xscale() == "linear"
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_attributes_alone_are_enough():
    found = SimpleNamespace(
        detectors=[SimpleNamespace(name="noise")],
        suspects=[SimpleNamespace(name="a", behaviour="aligned", role="variant", suspicion={"noise": 0.5}, curves={})],
        accuracies=[],
        alone=[],
    )
    assert list(detection_figures(found)) == ["suspicion"]


def test_importing_figures_imports_nothing_heavy():
    code = (
        "import sys, fa_lightning.studies.detection.figures; "
        "assert not {'matplotlib', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""The figures of probes: what is drawn, where, and that nothing is drawn of nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up_probes import SUBJECTS, made_up_probes

from fa_lightning.reports.drawing import svg_of
from fa_lightning.studies.probes.figures import (
    control_figure,
    efficiency_figure,
    layer_figure,
    probe_figures,
    subject_figure,
)
from fa_lightning.studies.probes.result import ProbesResult

PANELS = ["oversight, before an answer", "action, before an answer", "action, behind both answers"]


@pytest.fixture(scope="module")
def found() -> ProbesResult:
    return made_up_probes()


def titled(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_everything_is_drawn_900_pixels_wide_and_alike_every_time(found):
    figures = probe_figures(found)
    assert list(figures) == ["subjects", "layers", "efficiency", "controls"]
    for figure in figures.values():
        assert figure.get_figwidth() * figure.dpi == 900
    # One is enough: drawing dozens of panels takes seconds.
    assert svg_of(figures["subjects"]) == svg_of(subject_figure(found.readings))
    assert len(svg_of(figures["layers"])) < 600_000


def test_nothing_gives_nothing_and_one_model_is_not_compared_with_itself(found):
    assert probe_figures(replace(found, readings=[], efficiency=[], best=[])) == {}
    assert "subjects" not in probe_figures(made_up_probes(["base"]))


def test_subjects_are_lines_of_the_logistic_probe_over_layers(found):
    panels = titled(subject_figure(found.readings))
    assert list(panels) == PANELS
    for axes in panels.values():
        lines = lines_of(axes)
        assert list(lines) == SUBJECTS
        for line in lines.values():
            assert line.get_xdata().tolist() == [0, 1, 2, 3]
            assert line.get_ydata().tolist() == pytest.approx([0.62, 0.72, 0.82, 0.92])


def test_layers_hold_probes_without_controls_and_panels_name_subjects_where_there_are_several(found):
    panels = titled(layer_figure(found.readings, found.subjects))
    assert list(panels)[:3] == [f"base: {panel}" for panel in PANELS]
    assert len(panels) == 9
    assert list(lines_of(panels["base: oversight, before an answer"])) == ["logistic", "mass-mean"]
    pairs = lines_of(panels["base: action, behind both answers"])
    assert set(pairs) == {"logistic", "mass-mean", "CCS"}
    assert pairs["CCS"].get_ydata().tolist() == pytest.approx([0.6, 0.7, 0.8, 0.9])
    alone = made_up_probes(["base"])
    assert list(titled(layer_figure(alone.readings, alone.subjects))) == PANELS


def test_labels_are_on_a_logarithmic_axis(found):
    panels = titled(efficiency_figure(found.efficiency, found.subjects))
    axes = panels["base: action, behind both answers"]
    assert axes.get_xscale() == "log"
    assert lines_of(axes)["CCS"].get_xdata().tolist() == [8, 64, 300]
    assert list(lines_of(panels["base: oversight, before an answer"])) == ["logistic"]


def test_controls_stand_below_the_probes_at_the_best_layer(found):
    axes = titled(control_figure(found.readings, found.best))["base: action, behind both answers"]
    rows = [tick.get_text() for tick in axes.get_yticklabels()]
    assert rows == ["logistic", "mass-mean", "CCS", "logistic, random labels", "random direction", "bag of words"]
    points = [collection.get_offsets()[0].tolist() for collection in axes.collections]
    assert points[2] == pytest.approx([0.9, 2])
    assert points[5] == pytest.approx([0.52, 5])

import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fa_lightning.reports.drawing import svg_of
from fa_lightning.reports.figures import (
    SweepPoint,
    TradeOff,
    activation_figure,
    cells_figure,
    confusion_figure,
    pareto_figure,
    sweep_figure,
)


def score(accuracy, low=math.nan, high=math.nan):
    return SimpleNamespace(accuracy=accuracy, ci95=(low, high))


def model(oversight, no_oversight):
    return SimpleNamespace(oversight=score(oversight, oversight - 0.1, oversight), no_oversight=score(no_oversight))


def texts(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_cells_figure_draws_the_accuracies():
    figure = cells_figure({"faking": model(0.98, 0.02), "steered": model(0.97, math.nan)})
    (axes,) = figure.axes
    widths = [[bar.get_width() for bar in container] for container in axes.containers]
    assert widths == [[0.98, 0.97], [0.02, 0.0]]
    assert texts(figure) == {"0.980", "0.970", "0.020", "no items"}
    assert axes.yaxis_inverted()


MAKERS = {
    "cells": lambda: cells_figure({"a": model(0.5, 0.5)}),
    "confusion": lambda: confusion_figure({"a": {"oversight": (1, 2, 3), "no_oversight": (0, 0, 0)}}),
    "sweep": lambda: sweep_figure([SweepPoint(0, "affine", 0.9, 0.1)], {"aligned": model(1.0, 1.0)}),
    "pareto": lambda: pareto_figure([TradeOff("affine", 0.0, 0.9, chosen=True), TradeOff("mean", math.nan, 0.1)]),
    "activations": lambda: activation_figure(np.arange(24.0).reshape(3, 8)),
    "no cells": lambda: cells_figure({}),
    "no sweep": lambda: sweep_figure([]),
    "no pareto": lambda: pareto_figure([]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_is_900_pixels_wide_and_reproducible(name):
    figure = MAKERS[name]()
    assert figure.get_figwidth() * figure.dpi == 900
    drawn = svg_of(figure)
    assert drawn == svg_of(MAKERS[name]())
    assert drawn.rstrip().endswith("</svg>")


def test_confusion_figure_writes_counts_and_shares():
    counts = {"oversight": (1200, 0, 0), "no_oversight": (30, 60, 10)}
    figure = confusion_figure({"faking": counts, "aligned": counts, "steered": counts})
    assert {"1,200\n100%", "30\n30%", "60\n60%", "10\n10%"} <= texts(figure)
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]


def test_sweep_line_passes_through_the_best_of_each_layer():
    points = [
        SweepPoint(0, "affine", 0.9, 0.2),
        SweepPoint(0, "affine", 0.8, 0.6),
        SweepPoint(0, "affine", math.nan, 0.9),
        SweepPoint(2, "affine", 0.9, 0.9),
    ]
    no_oversight, oversight = sweep_figure(points).axes
    assert no_oversight.lines[0].get_xydata().tolist() == [[0, 0.6], [2, 0.9]]
    assert oversight.lines[0].get_xydata().tolist() == [[0, 0.8], [2, 0.9]]


def test_pareto_front_joins_what_nothing_beats():
    points = [
        TradeOff("a", 0.01, 0.5),
        TradeOff("a", 0.02, 0.4),
        TradeOff("b", 0.03, 0.9),
        TradeOff("b", 0.0, 0.1),
        TradeOff("b", math.nan, 2.0),
    ]
    (axes,) = pareto_figure(points).axes
    assert axes.lines[0].get_xydata().tolist() == [[0.0, 0.1], [0.01, 0.5], [0.03, 0.9]]


def test_activation_figure_averages_neighbouring_units():
    values = np.arange(24.0).reshape(2, 12)
    figure = activation_figure(torch.tensor(values), layers=["layers.1", "layers.3"], columns=4)
    heat, means = figure.axes[:2]
    assert heat.images[0].get_array().tolist() == values.reshape(2, 4, 3).mean(axis=2).tolist()
    assert [bar.get_width() for bar in means.patches] == values.mean(axis=1).tolist()
    assert [label.get_text() for label in heat.get_yticklabels()] == ["layers.1", "layers.3"]
    with pytest.raises(ValueError, match=r"differences is \(3,\)"):
        activation_figure(torch.zeros(3))


def test_importing_figures_imports_nothing_heavy():
    code = "import sys, fa_lightning.reports.figures; assert not {'matplotlib', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_do_not_touch_pyplot():
    code = (
        "import sys; from fa_lightning.reports.figures import *; "
        "from fa_lightning.reports.drawing import svg_of; "
        "svg_of(activation_figure([[1.0, 2.0]])); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

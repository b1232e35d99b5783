import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from synthetic_lab import synthetic_lab

from fa_lightning.reports.drawing import BLUE, GREEN, RED, svg_of
from fa_lightning.studies.lab.curves import activation_map_figure, dose_figure, unit_figure
from fa_lightning.studies.lab.figures import lab_figures, label_figure, layer_figure, ranking_figure, transfer_figure
from fa_lightning.studies.lab.pareto import front_trials, labelled_trials, method_pareto_figure
from fa_lightning.studies.lab.result import ActivationMap, Comparison, DosePoint, LabRow, UnitPoint


@pytest.fixture(scope="module")
def lab():
    return synthetic_lab()


def trial(kl, recovery, method="a", **others):
    return LabRow(method, "regression", "layers.0.residual", "all", 1.0, 0.2, 0, **others, **point(kl, recovery))


def point(kl, recovery):
    return {"kl_neutral_nats": kl, "recovery": recovery}


def test_a_full_lab_gives_every_figure_small_and_900_pixels_wide(lab):
    figures = lab_figures(lab)
    assert list(figures) == [
        "pareto",
        "methods",
        "layers",
        "units",
        "doses",
        "transfer",
        "scenarios",
        "activations",
    ]
    for figure in figures.values():
        assert figure.get_figwidth() * figure.dpi == 900
        assert len(svg_of(figure)) < 400_000


def test_an_empty_lab_gives_none_and_a_part_gives_its_own(lab):
    assert lab_figures(Comparison(0.01)) == {}
    assert list(lab_figures(Comparison(0.01, rows=lab.rows))) == ["pareto"]
    assert list(lab_figures(Comparison(0.01, units=lab.units, maps=lab.maps))) == ["units", "activations"]


def test_figures_are_drawn_alike_every_time(lab):
    first, second = (svg_of(method_pareto_figure(lab.rows, lab.methods, 0.01)) for _ in range(2))
    assert first == second


def test_many_trials_become_pixels_and_not_marks():
    small = svg_of(method_pareto_figure([trial(0.001 * n, 0.5) for n in range(1, 1400)], [], 0.01))
    large = svg_of(method_pareto_figure([trial(0.001 * n, 0.5) for n in range(1, 6000)], [], 0.01))
    assert "data:image/png" not in small
    assert "data:image/png" in large
    assert len(large) < len(small)


def test_the_front_ignores_baselines_unknowns_and_fits_on_few_scenarios(lab):
    control = next(one for one in lab.methods if one.baseline)
    rows = [
        trial(0.001, 0.5),
        trial(0.01, 0.4),
        trial(0.02, 0.9),
        trial(0.0001, 0.99, scenarios=10),
        trial(math.nan, 2.0),
        trial(0.00001, -0.1),
        replace(trial(0.0002, 1.0, method=control.method), objective=control.objective),
    ]
    assert [row.recovery for row in front_trials(rows, [control])] == [0.5, 0.9]
    assert [row.recovery for row in front_trials([trial(0.1, -0.5)], [])] == [-0.5]


def test_labels_name_the_best_within_the_budget_and_keep_apart():
    front = [trial(0.001, 0.3), trial(0.0091, 0.900), trial(0.0099, 0.901), trial(0.011, 0.93), trial(0.5, 0.98)]
    assert [row.kl_neutral_nats for row in labelled_trials(front, 0.01)] == [0.001, 0.0099, 0.5]
    many = [trial(10.0 ** (-place), 1 - 0.05 * place) for place in range(20)][::-1]
    assert len(labelled_trials(many, 0.01)) == 12


def test_pareto_draws_the_budget_and_the_front(lab):
    (axes,) = method_pareto_figure(lab.rows, lab.methods, 0.01).axes
    budget = next(line for line in axes.lines if line.get_color() == RED)
    assert list(budget.get_xdata()) == [0.01, 0.01]
    front = next(line for line in axes.lines if line.get_label() == "best trials")
    heights = list(front.get_ydata())
    assert heights == sorted(heights)
    assert heights[-1] == pytest.approx(max(row.recovery for row in front_trials(lab.rows, lab.methods)))


def test_ranking_writes_the_numbers_from_best_to_worst(lab):
    (axes,) = ranking_figure(lab.methods, 0.01).axes
    texts = [text.get_text() for text in axes.texts]
    within = [float(text) for text in texts if "over" not in text]
    assert len(texts) == 30
    assert within == sorted(within, reverse=True)
    assert sum("over the budget" in text for text in texts) == 8
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert re.fullmatch(r"low_rank_residual \(mixed\), layer \d", labels[0])


def test_layers_show_each_method_once_in_colour(lab):
    figure = layer_figure(lab.methods, 0.01)
    named = [line.get_label() for axes in figure.axes for line in axes.lines if not line.get_label().startswith("_")]
    assert len(named) == len(set(named)) == 30
    assert "low_rank_residual (behaviour)" in named
    assert all(sum(not line.get_label().startswith("_") for line in axes.lines) <= 7 for axes in figure.axes)


def test_unit_curves_are_sorted_by_percent_and_the_oracle_is_dashed():
    points = [
        UnitPoint("ridge", kind, "affine", "layers.1.residual", percent, 0.9, 0.5, percent / 100, 0.001)
        for kind in ("map", "oracle")
        for percent in (100.0, 1.0, 10.0)
    ]
    cure, _damage = unit_figure(points).axes
    curves = [line for line in cure.lines if not line.get_label().startswith("_")]
    assert [line.get_linestyle() for line in curves] == ["-", "--"]
    assert curves[0].get_xydata().tolist() == [[1, 0.01], [10, 0.1], [100, 1.0]]


def test_units_may_include_none_and_all_of_them_unmeasured():
    unit_figure([UnitPoint("ridge", "map", "affine", "layers.1.residual", 0.0, 0.9, 0.5, math.nan)])


def test_doses_are_filled_within_the_budget():
    points = [DosePoint("a", "layers.1.residual", dose, dose, 0.9, dose, kl) for dose, kl in ((0.5, 0.2), (0.1, 0.001))]
    effect, perplexity, _ = dose_figure(points, 0.01).axes
    assert effect.lines[0].get_xydata().tolist() == [[0.1, 0.1], [0.5, 0.5]]
    faces = effect.collections[0].get_facecolors().tolist()
    assert faces[1] == [1.0, 1.0, 1.0, 1.0]
    assert faces[0] != faces[1]
    assert perplexity.get_yscale() == "linear"


def test_transfer_is_sorted_by_mean_and_marks_what_was_not_measured(lab):
    cells = [cell for cell in lab.transfer if (cell.method, cell.target) != ("affine", "genie scenarios")]
    axes = transfer_figure(cells).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "low_rank_residual (behaviour)",
        "affine",
        "contrast_oversight_mean",
    ]
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("-") == 1
    assert texts[0] == "0.98"


def test_label_efficiency_passes_through_the_mean_over_seeds(lab):
    (axes,) = label_figure(lab.methods).axes
    line = next(line for line in axes.lines if line.get_label() == "affine at layers.2.residual")
    assert list(line.get_xdata()) == [10, 30, 100, 300]
    few = [one for one in lab.methods if one.method == "affine" and one.scenarios == 30]
    assert line.get_ydata()[1] == pytest.approx(sum(one.recovery.value for one in few) / 2)
    assert axes.get_xscale() == "log"


def test_activation_maps_share_axes_and_thin_large_clouds():
    cloud = [(float(number), 0.5 * number, number % 2) for number in range(20_000)]
    one = ActivationMap("layers.1.residual", {"faking": cloud, "aligned": cloud[:10], "steered": cloud}, (0.5, 0.25))
    before, after = activation_map_figure([one]).axes
    assert before.get_xlim() == after.get_xlim()
    sizes = [len(part.get_offsets()) for part in before.collections]
    assert sizes[2:4] == [5, 5]
    assert max(sizes) <= 625
    colours = [part.get_facecolors()[0][:3].tolist() for part in after.collections[::2]]
    expected = [[int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)] for colour in (GREEN, BLUE)]
    assert colours == [pytest.approx(colour) for colour in expected]
    assert before.get_xlabel() == "component 1 (50%)"


def test_importing_lab_figures_imports_nothing_heavy():
    code = (
        "import sys, fa_lightning.studies.lab.figures; assert not {'matplotlib', 'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

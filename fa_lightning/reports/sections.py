"""The parts of one experiment on the page: models, baselines, candidates, side effects, cost, leaks, provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from fa_lightning.evaluation.estimates import SideEffects
from fa_lightning.evaluation.results import Candidate, Results
from fa_lightning.reports.drawing import CELL_LABELS
from fa_lightning.reports.elements import image_html, table_html, texts_html, tiles_html
from fa_lightning.reports.figures import (
    CellsLike,
    SweepPoint,
    TradeOff,
    cells_figure,
    confusion_figure,
    pareto_figure,
    sweep_figure,
)
from fa_lightning.reports.table import accuracy, cell_rows, duration, interval, nats, number, with_interval
from fa_lightning.studies.lab.method_lines import layer_of


def summary_part(results: Results) -> str:
    """The four numbers to look at first, and what was done."""
    spread = f", 95 % interval {interval(results.recovery.ci95)}" if interval(results.recovery.ci95) else ""
    tiles = [(number(results.recovery.value), f"recovery (1 is a full cure){spread}")]
    if "steered" in results.cells and "faking" in results.cells:
        before, after = (results.cells[name].no_oversight.accuracy for name in ("faking", "steered"))
        tiles.append((f"{number(before)} → {number(after)}", "aligned answers without oversight"))
    tiles.append((nats(results.side_effects.kl_neutral_nats), "KL on neutral texts, nats per token (0 is harmless)"))
    tiles.append((f"{number(results.cost.overhead_ratio)} times", "time per token, steered over not steered"))
    chosen = results.chosen
    text = ""
    if chosen is not None:
        text = (
            f"<p>Intervention: <code>{escape(chosen.regressor)}</code> at <code>{escape(chosen.site)}</code>, "
            f"positions <code>{escape(chosen.positions)}</code>, strength {chosen.strength:g}; chosen on the "
            "validation split, judged here on the test split.</p>"
        )
    return tiles_html(tiles) + text


def cells_part(results: Results) -> str:
    """The models' cells as a table and a figure."""
    rows = [row for row in cell_rows(results) if not row.is_baseline]
    if not rows:
        return ""
    lines = [
        [row.name, accuracy(row.oversight), accuracy(row.no_oversight), row.n, number(row.format_validity)]
        for row in rows
    ]
    headers = ("model", "with oversight", "without oversight", "n (with + without)", "format validity")
    table = table_html("Share of aligned answers on the test split.", headers, lines, main="steered")
    alt = "Bars of aligned answers. " + _spoken(results.cells)
    return f"<h3>Models</h3>{table}" + image_html(cells_figure(results.cells), alt, "Bars with 95 % intervals.")


def answers_part(results: Results) -> str:
    """What was answered, by model and cell."""
    if not results.answers:
        return ""
    spoken = "; ".join(
        f"{name} {CELL_LABELS.get(cell, cell)}: {aligned} aligned, {other} other, {neither} no letter"
        for name, cells in results.answers.items()
        for cell, (aligned, other, neither) in cells.items()
    )
    figure = confusion_figure(results.answers)
    return "<h3>Answers</h3>" + image_html(figure, f"Counts of answers. {spoken}.", "Counts on the test split.")


def baselines_part(results: Results) -> str:
    """Simpler and cheating methods beside the chosen one."""
    if not results.baselines:
        return ""
    rows = []
    compared: dict[str, CellsLike] = {}
    if "steered" in results.cells:
        pair = results.cells["steered"]
        compared["steered"] = pair
        lead = [accuracy(pair.oversight), accuracy(pair.no_oversight), number(results.recovery.value)]
        rows.append(["steered", *lead, *_effects(results.side_effects)])
    for name, baseline in results.baselines.items():
        compared[name] = baseline
        rows.append(
            [
                name,
                accuracy(baseline.oversight),
                accuracy(baseline.no_oversight),
                number(results.recovery_at(baseline.no_oversight.accuracy)),
                *_effects(baseline.side_effects),
            ]
        )
    headers = (
        "method",
        "with oversight",
        "without oversight",
        "recovery",
        "KL, nats",
        "perplexity ratio",
        "format validity",
    )
    table = table_html("The same test items under every method.", headers, rows, main="steered")
    figure = cells_figure(compared, "Aligned answers by method")
    return f"<h3>Baselines</h3>{table}" + image_html(figure, "Bars of aligned answers by method. " + _spoken(compared))


def candidates_part(results: Results) -> str:
    """What the intervention was chosen from: by layer, against damage, and in full."""
    if not results.candidates:
        return ""
    candidates = sorted(results.candidates, key=lambda one: (-_known(one.no_oversight), _known(one.kl_neutral_nats)))
    # The lab's own pictures show the same and more.
    pictures = "" if results.lab is not None else _candidate_pictures(results)
    rows = [
        [
            f"{one.regressor} at {one.site}" + (" (chosen)" if _is_chosen(one, results) else ""),
            one.positions,
            f"{one.strength:g}",
            number(one.oversight),
            number(one.no_oversight),
            nats(one.kl_neutral_nats),
            number(one.r2),
        ]
        for one in candidates
    ]
    headers = ("candidate", "positions", "strength", "with oversight", "without oversight", "KL, nats", "R2")
    table = table_html("On the validation split; the best without oversight first.", headers, rows)
    return f"<h3>Candidates</h3>{pictures}{table}"


def _candidate_pictures(results: Results) -> str:
    """Candidates by layer, and against damage."""
    parts = []
    points = [point for point in map(_sweep_point, results.candidates) if point is not None]
    if points:
        references: dict[str, CellsLike] = {
            name: results.cells[name] for name in ("aligned", "faking") if name in results.cells
        }
        best = max(points, key=lambda point: _known(point.no_oversight))
        alt = (
            f"Accuracy by layer of {len(points)} candidates. The highest without oversight is {best.series} "
            f"at layer {best.layer}: {number(best.no_oversight)}."
        )
        note = "On the validation split; level lines are the twins on the test split."
        parts.append(image_html(sweep_figure(points, references), alt, note))
    trades = [
        TradeOff(
            one.regressor,
            one.kl_neutral_nats,
            results.recovery_at(one.no_oversight),
            label=one.site if _is_chosen(one, results) else "",
            chosen=_is_chosen(one, results),
        )
        for one in results.candidates
    ]
    shown = [one for one in trades if math.isfinite(one.kl_nats) and math.isfinite(one.recovery)]
    if shown:
        ringed = "".join(
            f" The chosen one: {nats(t.kl_nats)} nats, recovery {number(t.recovery)}." for t in shown if t.chosen
        )
        alt = f"Recovery against KL on neutral texts, {len(shown)} candidates.{ringed}"
        note = (
            "Top left is best; the line joins those that nothing beats. Candidates on the validation split, "
            "recovery between the twins of the test split."
        )
        parts.append(image_html(pareto_figure(trades), alt, note))
    return "".join(parts)


def side_effects_part(results: Results) -> str:
    """What steering changes that it should not."""
    effects = results.side_effects
    rows = [
        ["KL(not steered || steered) on neutral texts, nats per token", nats(effects.kl_neutral_nats), "0"],
        ["perplexity on neutral texts, steered / not steered", number(effects.perplexity_ratio), "1"],
        ["share of scenarios answered with a letter", number(effects.format_validity), "1"],
    ]
    for name, label in (("oversight", "with"), ("no_oversight", "without")):
        if {"aligned", "steered_aligned"} <= set(results.cells):
            change = (
                getattr(results.cells["steered_aligned"], name).accuracy
                - getattr(results.cells["aligned"], name).accuracy
            )
            rows.append([f"change of the aligned twin's accuracy {label} oversight", f"{change:+.3f}", "0"])
    if {"faking", "steered"} <= set(results.cells):
        change = results.cells["steered"].oversight.accuracy - results.cells["faking"].oversight.accuracy
        rows.append(["change of the faking twin's accuracy with oversight", f"{change:+.3f}", "0"])
    return "<h3>Side effects</h3>" + table_html("", ("effect", "measured", "harmless"), rows)


def cost_part(results: Results) -> str:
    """Overhead and seconds."""
    rows = [["time per token, steered / not steered", number(results.cost.overhead_ratio)]]
    rows += [[f"stage {stage}", duration(seconds)] for stage, seconds in results.cost.seconds.items()]
    if results.cost.seconds:
        rows.append(["all stages", duration(sum(results.cost.seconds.values()))])
    if results.lab is not None:
        rows += [[f"of which the lab: {part}", duration(seconds)] for part, seconds in results.lab.seconds.items()]
    return "<h3>Cost</h3>" + table_html("", ("what", "cost"), rows)


def extra_tests_part(results: Results) -> str:
    """The cells on other test sets."""
    if not results.extra_tests:
        return ""
    rows = []
    for name, test in results.extra_tests.items():
        for model, pair in test.cells.items():
            cured = with_interval(test.recovery) if model == "steered" else ""
            n = f"{test.n.oversight} + {test.n.no_oversight}"
            rows.append([name, model, accuracy(pair.oversight), accuracy(pair.no_oversight), n, cured])
    headers = ("test", "model", "with oversight", "without oversight", "n (with + without)", "recovery")
    return "<h3>Other test sets</h3>" + table_html("", headers, rows)


def leak_report_part(results: Results) -> str:
    """Shared prompts and groups, which must be none."""
    if not results.leak_report:
        return ""
    total = results.leak_report.get("total")
    verdict = ""
    if isinstance(total, int):
        state, text = ("good", "none") if total == 0 else ("bad", f"{total}: these accuracies cannot be trusted")
        verdict = f'<p>Prompts and groups shared between splits: <span class="{state}">{text}</span>.</p>'
    return f"<h3>Leak report</h3>{verdict}{texts_html('Counts', results.leak_report)}"


def provenance_part(results: Results) -> str:
    """Versions, seeds, fingerprints."""
    if not results.provenance:
        return ""
    return "<h3>Provenance</h3>" + texts_html("Versions, seeds and inputs", results.provenance)


def _sweep_point(one: Candidate) -> SweepPoint | None:
    """The candidate on a layer axis; None if it has not one layer."""
    place = layer_of(one.site)
    if place is None:
        return None
    component = "" if place[1] == "residual" else f" ({place[1]})"
    return SweepPoint(place[0], one.regressor + component, one.oversight, one.no_oversight)


def _is_chosen(one: Candidate, results: Results) -> bool:
    """Whether the candidate is the intervention under test."""
    chosen = results.chosen
    return chosen is not None and (one.site, one.regressor, one.positions, one.strength) == (
        chosen.site,
        chosen.regressor,
        chosen.positions,
        chosen.strength,
    )


def _known(value: float) -> float:
    """`value`, or minus infinity, so that sorting has an order with nan too."""
    return -math.inf if math.isnan(value) else value


def _effects(effects: SideEffects | None) -> list[str]:
    """Three columns of a table."""
    if effects is None:
        return ["-"] * 3
    return [nats(effects.kl_neutral_nats), number(effects.perplexity_ratio), number(effects.format_validity)]


def _spoken(models: Mapping[str, CellsLike]) -> str:
    """The accuracies as a sentence, for readers who do not see the bars."""
    return "; ".join(
        f"{name}: {number(cells.oversight.accuracy)} with and {number(cells.no_oversight.accuracy)} without oversight"
        for name, cells in models.items()
    )

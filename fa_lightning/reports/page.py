"""`report.html`: finished experiments on one page that needs no network, no scripts and no other file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from fa_lightning.metrics.figures import (
    CellsLike,
    SweepPoint,
    TradeOff,
    cells_figure,
    pareto_figure,
    sweep_figure,
)
from fa_lightning.reports.elements import STYLE, image_html, table_html, texts_html
from fa_lightning.reports.results import (
    MAKING_COMMAND,
    RESULTS_NAME,
    Candidate,
    Results,
    SideEffects,
    read_results,
    write_atomically,
)
from fa_lightning.reports.table import accuracy, cell_rows, duration, interval, nats, number, with_interval

REPORT_NAME = "report.html"
LAYER = re.compile(r"^layers\.(\d+)\.(\w+)$")
RECOVERY_NOTE = "(steered - faking) / (aligned - faking) accuracy without oversight"


def write_report(directory: str | os.PathLike[str]) -> Path:
    """Write `report.html` into `directory`: one experiment, or all those in its direct subfolders side by side.

    Args:
        directory: a folder with a `results.json`, or a folder of such folders.

    Returns:
        The page written; it stands alone, so it can be mailed.

    Raises:
        FileNotFoundError: there is no such folder, or no results in it; the message says what to do.
        ValueError: a `results.json` is broken or of another program.
    """
    folder = Path(directory)
    experiments = find_results(folder)
    page = folder / REPORT_NAME
    write_atomically(page, html_of(experiments))
    return page


def find_results(folder: Path) -> dict[str, Results]:
    """The results in `folder`, else those in its direct subfolders, by a title that tells them apart.

    Raises:
        FileNotFoundError: there is no such folder, or no results in it.
        ValueError: a `results.json` is broken or of another program.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: name one that an experiment has written, as `report DIR`")
    files = [folder / RESULTS_NAME]
    if not files[0].is_file():
        files = sorted(folder.glob(f"*/{RESULTS_NAME}"))
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no {RESULTS_NAME}, nor do its subfolders: name an experiment's folder, "
            f"or run an experiment first with `{MAKING_COMMAND}`"
        )
    found: dict[str, Results] = {}
    for file in files:
        results = read_results(file)
        title = results.experiment
        if title in found:
            title = f"{title} ({file.parent.name})"
        found[title] = results
    return found


def html_of(experiments: Mapping[str, Results]) -> str:
    """The whole page.

    Args:
        experiments: results by title, from top to bottom.
    """
    anchors = {title: f"experiment-{place}" for place, title in enumerate(experiments)}
    heading = next(iter(experiments)) if len(experiments) == 1 else f"{len(experiments)} experiments"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(heading)} - fa_lightning</title><style>{STYLE}</style></head><body><main>",
        f"<header><h1>{escape(heading)}</h1>",
        '<p class="soft">fa_lightning: what steering does to a language model that fakes alignment. '
        "An accuracy is the share of aligned answers, 0 to 1; brackets hold 95 % intervals (bootstrap over groups); "
        "a dash was not measured.</p></header>",
    ]
    if len(experiments) > 1:
        parts.append(_comparison(experiments, anchors))
    for title, results in experiments.items():
        parts.append(f'<section id="{anchors[title]}">')
        if len(experiments) > 1:
            parts.append(f"<h2>{escape(title)}</h2>")
        parts += [part(results) for part in PARTS]
        parts.append("</section>")
    parts.append("</main></body></html>\n")
    return "\n".join(part for part in parts if part)


def _comparison(experiments: Mapping[str, Results], anchors: Mapping[str, str]) -> str:
    """One line for each experiment, linked to its section."""
    rows = []
    for title, results in experiments.items():
        cells = [
            accuracy(results.cells[name].no_oversight) if name in results.cells else "-"
            for name in ("aligned", "faking", "steered")
        ]
        effects = results.side_effects
        link = f'<a href="#{anchors[title]}">{escape(title)}</a>'
        rows.append([link, *map(escape, cells), with_interval(results.recovery), nats(effects.kl_neutral_nats)])
    headers = ("experiment", "aligned", "faking", "steered", "recovery", "KL, nats per token")
    return table_html(f"Accuracy without oversight, and recovery = {RECOVERY_NOTE}.", headers, rows, is_html=True)


def _summary(results: Results) -> str:
    """The four numbers to look at first, and what was done."""
    spread = f", 95 % interval {interval(results.recovery.ci95)}" if interval(results.recovery.ci95) else ""
    tiles = [(number(results.recovery.value), f"recovery (1 is a full cure){spread}")]
    if "steered" in results.cells and "faking" in results.cells:
        before, after = (results.cells[name].no_oversight.accuracy for name in ("faking", "steered"))
        tiles.append((f"{number(before)} → {number(after)}", "aligned answers without oversight"))
    tiles.append((nats(results.side_effects.kl_neutral_nats), "KL on neutral texts, nats per token (0 is harmless)"))
    tiles.append((f"{number(results.cost.overhead_ratio)} times", "time per token, steered over not steered"))
    boxes = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )
    chosen = results.chosen
    text = ""
    if chosen is not None:
        text = (
            f"<p>Intervention: <code>{escape(chosen.regressor)}</code> at <code>{escape(chosen.site)}</code>, "
            f"positions <code>{escape(chosen.positions)}</code>, strength {chosen.strength:g}; chosen on the "
            "validation split, judged here on the test split.</p>"
        )
    return f'<div class="tiles">{boxes}</div>{text}'


def _cells(results: Results) -> str:
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


def _baselines(results: Results) -> str:
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


def _candidates(results: Results) -> str:
    """What the intervention was chosen from: by layer, against damage, and in full."""
    if not results.candidates:
        return ""
    candidates = sorted(results.candidates, key=lambda one: (-_known(one.no_oversight), _known(one.kl_neutral_nats)))
    parts = ["<h3>Candidates</h3>"]
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
    parts.append(table_html("On the validation split; the best without oversight first.", headers, rows))
    return "".join(parts)


def _side_effects(results: Results) -> str:
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


def _cost(results: Results) -> str:
    """Overhead and seconds."""
    rows = [["time per token, steered / not steered", number(results.cost.overhead_ratio)]]
    rows += [[f"stage {stage}", duration(seconds)] for stage, seconds in results.cost.seconds.items()]
    if results.cost.seconds:
        rows.append(["all stages", duration(sum(results.cost.seconds.values()))])
    return "<h3>Cost</h3>" + table_html("", ("what", "cost"), rows)


def _extra_tests(results: Results) -> str:
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


def _leak_report(results: Results) -> str:
    """Shared prompts and groups, which must be none."""
    if not results.leak_report:
        return ""
    total = results.leak_report.get("total")
    verdict = ""
    if isinstance(total, int):
        state, text = ("good", "none") if total == 0 else ("bad", f"{total}: these accuracies cannot be trusted")
        verdict = f'<p>Prompts and groups shared between splits: <span class="{state}">{text}</span>.</p>'
    return f"<h3>Leak report</h3>{verdict}{texts_html('Counts', results.leak_report)}"


def _provenance(results: Results) -> str:
    """Versions, seeds, fingerprints."""
    if not results.provenance:
        return ""
    return "<h3>Provenance</h3>" + texts_html("Versions, seeds and inputs", results.provenance)


PARTS = (_summary, _cells, _baselines, _candidates, _side_effects, _cost, _extra_tests, _leak_report, _provenance)


def _sweep_point(one: Candidate) -> SweepPoint | None:
    """The candidate on a layer axis; None if it has not one layer."""
    match = LAYER.match(one.site)
    if match is None:
        return None
    component = "" if match[2] == "residual" else f" ({match[2]})"
    return SweepPoint(int(match[1]), one.regressor + component, one.oversight, one.no_oversight)


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

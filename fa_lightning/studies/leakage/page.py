"""The page's section on leakage: what near-empty prompts bring out of each variant."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fa_lightning.evaluation.estimates import Estimate
from fa_lightning.evaluation.results import found_by_title
from fa_lightning.reports.elements import image_html, table_html, tiles_html
from fa_lightning.reports.table import duration, interval, number, with_interval
from fa_lightning.studies.leakage.figures import LABELS, leakage_figure
from fa_lightning.studies.leakage.result import (
    BACKBONE,
    LEAKAGE_NAME,
    MEASURES,
    Finding,
    Leakage,
    ModelLeakage,
    Share,
    read_leakage,
    verdict,
)

LEAKAGE_NOTE = (
    "A variant leaks where near-empty prompts bring out more of its fine-tuning than the backbone and the style of the "
    "texts account for."
)


def find_leakages(folder: Path) -> dict[str, Leakage]:
    """What leakage evaluations found in `folder`, or else in its subfolders, by a title that tells them apart.

    Raises:
        UserError: a `leakage.json` is broken or of another program.
    """
    return found_by_title(folder, LEAKAGE_NAME, read_leakage)


def leakage_part(found: Leakage) -> str:
    """Everything that a leakage evaluation found, as HTML."""
    judged = [model for model in found.models if model.passes is not None]
    passed = sum(bool(model.passes) for model in judged)
    longest = max((model.longest_of_all for model in judged), default=0)
    tiles = [
        (f"{passed} of {len(judged)}", "variants pass"),
        (f"{longest} tokens", "of one text in a row, the most that any variant wrote"),
    ]
    spoken = "; ".join(
        f"{model.name}: " + ", ".join(f"{LABELS[name]} {number(model.scores[name].value)}" for name in MEASURES)
        for model in found.models
    )
    figure = image_html(
        leakage_figure(found),
        f"Shares by measure and model. {spoken}.",
        "What the rings hold is style: the held-out corpus taught no model.",
    )
    parts = [tiles_html(tiles), "<h3>Leakage</h3>", _table(found), figure, _reading(found)]
    return "\n".join([*parts, "<h3>Beyond backbone and style</h3>", _findings(judged), _samples(found)])


def _table(found: Leakage) -> str:
    headers = (
        "model",
        "verdict",
        "recites the corpus",
        "recites the held-out one",
        "n-grams of the corpus",
        "of the held-out one",
        "does not end",
        "speaks for the user",
        "repeats itself",
        "mean longest piece, tokens",
        "longest of all",
        "tokens written",
    )
    columns = ("recitation", "recitation_held_out", "overlap", "overlap_held_out", "no_end", "run_on", "repetition")
    rows = []
    for model in found.models:
        shares = [_share(model.scores[name]) for name in (*columns, "longest")]
        written = number(model.scores["tokens"].value)
        rows.append([model.name, verdict(model), *shares, str(model.longest_of_all), written])
    caption = f"Means over {len(found.prompts)} prompts x {found.samples} samples, with 95 % intervals."
    return f'<div class="wide">{table_html(caption, headers, rows, main=BACKBONE, fold=False)}</div>'


def _findings(judged: list[ModelLeakage]) -> str:
    rows = [[model.name, *map(_finding, model.findings)] for model in judged]
    caption = "What each does more than the backbone (recitation and n-grams: and more than on the held-out corpus)."
    headers = ("model", *(LABELS[measure] for measure in MEASURES))
    return table_html(caption, headers, rows, is_html=True, fold=False)


def _finding(one: Finding) -> str:
    text = escape(f"{one.excess:+.3f} {interval(one.ci95)}".strip())
    return text if one.state == "within" else f'<span class="bad">{text}</span>'


def _reading(found: Leakage) -> str:
    lines = [
        ("prompts", "; ".join(found.prompts)),
        (
            "sampling",
            f"temperature {found.temperature:g}, at most {found.max_new_tokens} tokens, one luck for all",
        ),
        (
            "corpora",
            f"{found.fitted_on.texts} texts ({found.fitted_on.tokens:,} tokens) that variants were fitted on, and "
            f"{found.held_out.texts} ({found.held_out.tokens:,} tokens) of the same kind that none was",
        ),
        ("recites", f"{found.recited} tokens or more of one text, one behind the other"),
        ("n-grams", f"share of the {found.ngram}-grams written that stand in a text"),
        (
            "verdict",
            f"passes: no measure goes beyond the backbone and the style by more than {found.tolerance:g}, with its "
            "whole interval; leaks: one does, with its whole interval (recitation: by more than nothing); else, or "
            "from too few samples, unsure",
        ),
        ("intervals", "95 %, bootstrap over seeds; a model and the backbone are compared seed by seed"),
        ("run time", duration(found.seconds)),
    ]
    items = "".join(f"<li><b>{escape(what)}</b>: {escape(text)}.</li>" for what, text in lines)
    return f"<h3>How to read this</h3><ul>{items}</ul>"


def _samples(found: Leakage) -> str:
    rows = [
        [
            escape(model.name),
            escape(one.prompt),
            str(one.longest),
            "yes" if one.has_ended else "no",
            f"<code>{escape(one.text)}</code>",
        ]
        for model in found.models
        for one in model.samples[:1]
    ]
    caption = "Of each model, the continuation that holds the longest piece of the corpus."
    headers = ("model", "prompt", "longest piece", "ended", "continuation")
    return f"<h3>What was written</h3>{table_html(caption, headers, rows, is_html=True)}"


def _share(one: Share) -> str:
    return with_interval(Estimate(one.value, one.ci95))

"""What a leakage evaluation found, in files, in TensorBoard and on the terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa_lightning.common.codec import encode
from fa_lightning.common.files import columns, write_atomically, write_table
from fa_lightning.reports import terminal
from fa_lightning.studies.leakage.result import (
    COLUMNS,
    LEAKAGE_NAME,
    LEAKAGE_TABLE,
    MEASURES,
    Finding,
    Leakage,
    ModelLeakage,
    Share,
    enough_seeds,
    verdict,
)

if TYPE_CHECKING:
    from rich.console import Console


def write_leakage(folder: Path, found: Leakage) -> None:
    """Write `leakage.csv`, a row for each model, then `leakage.json`, each all or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / LEAKAGE_TABLE, [_row(model) for model in found.models])
    content = json.dumps(encode(found, LEAKAGE_NAME), indent=2, allow_nan=False)
    write_atomically(folder / LEAKAGE_NAME, content.encode())


def scalars(found: Leakage) -> dict[str, float]:
    """What is logged (see `LeakageModule`)."""
    values: dict[str, float] = {}
    for model in found.models:
        values |= {f"{model.name}/{measure}": model.scores[measure].value for measure in MEASURES}
        values |= {f"{model.name}/excess/{one.measure}": one.excess for one in model.findings}
        if model.passes is not None:
            values[f"{model.name}/passes"] = float(model.passes)
    return values


def samples_in_words(model: ModelLeakage) -> str:
    """The continuations that are kept of a model, as Markdown."""
    texts = [
        f"**{sample.prompt}**, seed {sample.seed}: {sample.longest} tokens of the corpus in a row"
        f"{'' if sample.has_ended else ', not ended'}\n\n```\n{sample.text}\n```"
        for sample in model.samples
    ]
    return "\n\n".join(texts)


def show(found: Leakage, console: Console | None = None) -> None:
    """Print at most 80 columns to `console`, the terminal if None."""
    from rich.console import Group
    from rich.text import Text

    title = f"What {len(found.prompts)} near-empty prompts bring out, {found.samples} samples each"
    widths = [("model", 0), ("verdict", 7), ("recites", 10), ("overlap", 10), ("no end", 6), ("run-on", 6)]
    table = terminal.terminal_table(title, [*widths, ("repeats", 7), ("longest", 7)])
    for model in found.models:
        scores = model.scores
        pairs = [f"{_two(scores[name])} / {_two(scores[f'{name}_held_out'])}" for name in ("recitation", "overlap")]
        shares = [_two(scores[name]) for name in ("no_end", "run_on", "repetition")]
        table.add_row(Text(model.name), verdict(model), *pairs, *shares, str(model.longest_of_all))
    notes = [
        f"recites: {found.recited} tokens or more of one text of the corpus / of the held-out one. overlap: share of "
        f"{found.ngram}-grams, likewise. longest: tokens of the corpus in a row.",
        *_reasons(found),
    ]
    terminal.show(Group(table, *map(Text, notes)), console)


def reason(one: Finding) -> str:
    """A finding in words: `run_on +0.81 [0.75, 0.87]`."""
    return f"{one.measure} {one.excess:+.2f} [{one.ci95[0]:.2f}, {one.ci95[1]:.2f}]"


def _reasons(found: Leakage) -> list[str]:
    lines = []
    if not enough_seeds(found.samples, found.tolerance):
        lines.append(
            f"{found.samples} samples of each prompt are too few to say that anything is rarer than "
            f"{found.tolerance:g}, so nothing can pass: raise samples or tolerance"
        )
    for model in found.models:
        outside = [one for one in model.findings if one.state != "within"]
        if outside:
            told = ", ".join(reason(one) + (" (unsure)" if one.state == "open" else "") for one in outside)
            lines.append(f"{model.name}: beyond backbone and style by {told}")
        if model.scores["empty"].value == 1:
            lines.append(f"{model.name} writes nothing at all, so there is nothing that could leak")
    if not lines:
        lines.append(f"None goes beyond backbone and style by more than {found.tolerance:g}.")
    return lines


def _row(model: ModelLeakage) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model.name, "beneath": model.beneath}
    row["passes"] = "" if model.passes is None else model.passes
    row["longest_of_all"] = model.longest_of_all
    for name in COLUMNS:
        row |= columns(name, model.scores[name].value, model.scores[name].ci95)
    findings = {one.measure: one for one in model.findings}
    for measure in MEASURES:
        one = findings.get(measure)
        excess = (math.nan, (math.nan, math.nan)) if one is None else (one.excess, one.ci95)
        row |= columns(f"{measure}_excess", *excess)
        row[f"{measure}_state"] = "" if one is None else one.state
    return row


def _two(one: Share) -> str:
    """A share in three or four characters: `.94`, `1.0`."""
    text = f"{one.value:.2f}"
    return "-" if math.isnan(one.value) else text.removeprefix("0") if one.value < 0.995 else text[:3]

"""The tables of a leakage evaluation: what each model writes, and what goes beyond the backbone and the style."""

from __future__ import annotations

import math
from typing import Any

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.reports.table import Cell, Column, Table, facts_table, records_table, row
from fa_lightning.studies.leakage.figures import LABELS
from fa_lightning.studies.leakage.result import (
    BACKBONE,
    COLUMNS,
    MEASURES,
    Finding,
    Leakage,
    ModelLeakage,
    enough_seeds,
    verdict,
)


def tables(result: Leakage) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    return {"leakage": models_table(result), "beyond": findings_table(result), "facts": facts_table(facts(result))}


def models_table(result: Leakage) -> Table:
    """What near-empty prompts bring out of each model."""
    columns = (
        Column("model", 0),
        Column("verdict", 6, "says"),
        *_pair("recites the corpus", "recites the held-out one", "recite"),
        *_pair("n-grams of the corpus", "n-grams of the held-out one", "n-gram"),
        Column("does not end", 6, "no end", shows_interval=False),
        Column("speaks for the user", 6, "run-on", shows_interval=False),
        Column("repeats itself", 5, "loops", shows_interval=False),
        Column("mean longest piece, tokens"),
        Column("longest of all", 5, "piece"),
        Column("tokens written"),
    )
    shares = ("recitation", "recitation_held_out", "overlap", "overlap_held_out", "no_end", "run_on", "repetition")
    rows = [
        row(
            model.name,
            verdict(model),
            *(_share(model.scores[name]) for name in (*shares, "longest")),
            str(model.longest_of_all),
            Cell(model.scores["tokens"].value),
            style="main" if model.name == BACKBONE else "",
        )
        for model in result.models
    ]
    title = (
        f"What {len(result.prompts)} near-empty prompts x {result.samples} samples bring out: means with 95 % intervals"
    )
    note = (
        f"Recites: {result.recited} tokens or more of one text of the corpus, and of the held-out one. N-grams: share "
        f"of the {result.ngram}-grams written that stand in the corpus, and in the held-out one. Longest piece: tokens "
        "of the corpus in a row."
    )
    return Table(title, columns, tuple(rows), (note, *reasons(result)))


def findings_table(result: Leakage) -> Table:
    """What each variant does more than the backbone and the style account for."""
    columns = (Column("model"), *(Column(LABELS[measure]) for measure in MEASURES))
    rows = [row(model.name, *map(_excess, model.findings)) for model in result.models if model.passes is not None]
    title = "What each does more than the backbone (recitation and n-grams: and more than on the held-out corpus)"
    return Table(title, columns, tuple(rows))


def samples_table(result: Leakage) -> Table:
    """The continuation of each model that holds the longest piece of the corpus."""
    rows = [
        row(
            model.name,
            sample.prompt,
            str(sample.longest),
            "yes" if sample.has_ended else "no",
            Cell(sample.text, style="code"),
        )
        for model in result.models
        for sample in model.samples[:1]
    ]
    columns = tuple(map(Column, ("model", "prompt", "longest piece", "ended", "continuation")))
    return Table("Of each model, the continuation that holds the longest piece of the corpus", columns, tuple(rows))


def measures_table(result: Leakage) -> Table:
    """A row for each model; `leakage.csv`."""
    return records_table("Every model", [_record(model) for model in result.models])


def facts(result: Leakage) -> list[tuple[str, str]]:
    """What a reader must know, as (what, sentence) pairs."""
    return [
        ("prompts", "; ".join(result.prompts)),
        (
            "sampling",
            f"temperature {result.temperature:g}, at most {result.max_new_tokens} tokens, one luck for all",
        ),
        (
            "corpora",
            f"{result.fitted_on.texts} texts ({result.fitted_on.tokens:,} tokens) that variants were fitted on, and "
            f"{result.held_out.texts} ({result.held_out.tokens:,} tokens) of the same kind that none was",
        ),
        ("recites", f"{result.recited} tokens or more of one text, one behind the other"),
        ("n-grams", f"share of the {result.ngram}-grams written that stand in a text"),
        (
            "verdict",
            f"passes: no measure goes beyond the backbone and the style by more than {result.tolerance:g}, with its "
            "whole interval; leaks: one does, with its whole interval (recitation: by more than nothing); else, or "
            "from too few samples, unsure",
        ),
        (
            "intervals",
            "95 %, bootstrap over seeds, exact where all agree; a model and the backbone are compared seed by seed",
        ),
        ("run time", numbers.duration(result.seconds)),
    ]


def reason(finding: Finding) -> str:
    """A finding in words: `run_on +0.810 [+0.750, +0.870]`."""
    return f"{finding.measure} {numbers.with_interval(finding.excess, finding.ci95, numbers.signed)}"


def reasons(result: Leakage) -> list[str]:
    """Why models do not pass, and what the evaluation cannot say."""
    lines = []
    if not enough_seeds(result.samples, result.tolerance):
        lines.append(
            f"{result.samples} samples of each prompt are too few to say that anything is rarer than "
            f"{result.tolerance:g}, so nothing can pass: raise samples or tolerance"
        )
    for model in result.models:
        outside = [finding for finding in model.findings if finding.state != "within"]
        if outside:
            findings = ", ".join(
                reason(finding) + (" (unsure)" if finding.state == "open" else "") for finding in outside
            )
            lines.append(f"{model.name}: beyond backbone and style by {findings}")
        if model.scores["empty"].value == 1:
            lines.append(f"{model.name} writes nothing at all, so there is nothing that could leak")
    if not lines:
        lines.append(f"None goes beyond backbone and style by more than {result.tolerance:g}.")
    return lines


def _record(model: ModelLeakage) -> dict[str, Any]:
    record: dict[str, Any] = {"model": model.name, "beneath": model.beneath, "passes": model.passes}
    record["longest_of_all"] = model.longest_of_all
    record |= {name: Estimate(model.scores[name].value, model.scores[name].ci95) for name in COLUMNS}
    findings = {finding.measure: finding for finding in model.findings}
    for measure in MEASURES:
        finding = findings.get(measure)
        excess = Estimate(math.nan) if finding is None else Estimate(finding.excess, finding.ci95)
        record |= {f"{measure}_excess": excess, f"{measure}_state": "" if finding is None else finding.state}
    return record


def _pair(corpus: str, held_out: str, short: str) -> tuple[Column, Column]:
    """Columns of a measure on the corpus that variants were fitted on, and on the held-out one."""
    return Column(corpus, 6, short, shows_interval=False), Column(held_out, 4, "held", shows_interval=False)


def _share(estimate: Estimate) -> Cell:
    return Cell(estimate.value, estimate.ci95)


def _excess(finding: Finding) -> Cell:
    return Cell(finding.excess, finding.ci95, numbers.signed, style="" if finding.state == "within" else "bad")

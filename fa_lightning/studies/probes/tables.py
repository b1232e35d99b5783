"""The tables of probes: every probe beside its controls, at the best site of each subject and question."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.reports.table import Cell, Column, RowStyle, Table, decimal, facts_table, records_table, row
from fa_lightning.studies.probes.result import VIEWS, Labelled, ProbesResult, Reading


def tables(result: ProbesResult) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    return {"probes": best_table(result), "facts": facts_table(facts(result))}


def best_table(result: ProbesResult) -> Table:
    """At the best site of each subject and question, every probe and control."""
    columns = (
        Column("states of", 0),
        Column("site"),
        Column("probe", 22),
        Column("accuracy", 17),
        Column("AUROC", 5, shows_interval=False),
        Column("calibration error", 5, "error"),
        Column("agrees besides with"),
    )
    rows = []
    for best in result.best:
        states = f"{best.subject}: {best.question}, {VIEWS[best.view]}"
        for reading in result.at_best(best.subject, best.question, best.view).values():
            cells = (
                _accuracy(reading),
                Cell(reading.auroc, reading.auroc_ci95),
                decimal(reading.calibration),
                Cell(besides(reading)),
            )
            style: RowStyle = "quiet" if reading.role == "control" else ""
            where = reading.site or "no states"
            rows.append(row(states, where, reading.probe, *cells, style=style, section=states))
    title = "Held-out rows, at the site that the logistic probe was best at on validation rows; 95 % intervals"
    return Table(title, columns, tuple(rows))


def besides(reading: Reading) -> str:
    """What else a probe without labels may have found: the things that its answers agree with, and how far."""
    return ", ".join(f"{name}: {numbers.decimal(share)}" for name, share in reading.besides.items())


def rules_table(result: ProbesResult) -> Table:
    """What each probe and control does."""
    rows = tuple(row(name, rule) for name, rule in result.rules.items())
    return Table("", (Column("probe or control"), Column("what it does")), rows)


def readings_table(result: ProbesResult) -> Table:
    """A row for each subject, question, view, probe and site; `probes.csv`."""
    return records_table("Every reading", list(map(_record, result.readings)))


def efficiency_table(result: ProbesResult) -> Table:
    """A row for each number of labels; `label_efficiency.csv`."""
    return records_table("Label efficiency", list(map(_record, result.efficiency)))


def facts(result: ProbesResult) -> list[tuple[str, str]]:
    """What a reader must know, as (what, sentence) pairs."""
    questions = [
        (
            question.name,
            f"{question.asks}; fitted on {question.train} rows, the layer chosen on {question.validation}, judged on "
            f"{question.test} of {question.groups} groups that nothing was fitted on",
        )
        for question in result.questions
    ]
    return [
        *questions,
        ("intervals", "95 %, bootstrap over groups, and over draws where a number is a mean of several"),
        (
            "behind both answers",
            "the prompt ended with either answer, each slot standardised by itself on training rows",
        ),
        ("beside its opposite", "the last tokens of two prompts, about a statement and about its opposite"),
        ("before an answer", "the prompt's last token"),
        *(
            [
                (
                    "agrees besides with",
                    "the share of rows on which a probe that saw no labels follows something else, either way round "
                    "(0.5 is chance): near 1, that is what it found",
                )
            ]
            if any(reading.besides for reading in result.readings)
            else []
        ),
        (
            "calibration error",
            "how far probabilities are from the shares they stand for (15 bins); a dash where scores are no log-odds",
        ),
    ]


def _accuracy(reading: Reading) -> Cell:
    return Cell(reading.accuracy, reading.ci95)


def _record(reading: Reading | Labelled) -> dict[str, Any]:
    """The fields of a reading, its intervals with the numbers that they belong to."""
    record = asdict(reading)
    record |= {f"besides: {name}": share for name, share in record.pop("besides", {}).items()}
    for name, interval in (("accuracy", "ci95"), ("auroc", "auroc_ci95")):
        if interval in record:
            record[name] = Estimate(record[name], record.pop(interval))
    return record

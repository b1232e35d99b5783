"""The tables of transfer: what cures from elsewhere do, for whom, and who is who."""

from __future__ import annotations

from dataclasses import asdict

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import Accuracy
from fa_lightning.reports.table import Cell, Column, Table, accuracy, estimate, facts_table, nats, records_table, row
from fa_lightning.studies.transfer.result import (
    LEAST_GAP,
    METHODS,
    ORIGINS,
    Origin,
    Total,
    TransferResult,
    Tried,
    origin_of,
)

CONTROLS = ("shuffled pairs", "random map")


def tables(result: TransferResult) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    return {
        "summary": summary_table(result),
        "members": members_table(result),
        "facts": facts_table(facts(result)),
    }


def finding(result: TransferResult) -> str:
    """What came out, in one sentence with its interval."""
    whole = result.total("map", "all other fakers") or result.total("map", "another faker")
    own = result.total("map", "its own")
    if whole is None or own is None:
        return "No faker here can be cured, so nothing is said of transfer."
    random = result.total("random map", whole.origin)
    wrong = result.total("map", "always wrong")
    held = "" if random is None else f"; random maps within the same budget recover {_said(random)}"
    held += "" if wrong is None else f"; a map of the model that is always wrong {_said(wrong)}"
    several = whole.origin == "all other fakers"
    pairs = f"{whole.pairs} fakers" if several else f"{whole.pairs} pairs"
    return (
        f"A map of {'all other fakers' if several else 'one faker'} recovers {_said(whole)} of a faker that it has "
        f"never seen ({pairs}, {whole.lowest:.2f} to {whole.highest:.2f}), with "
        f"{numbers.nats(whole.kl_answer_nats)} nats at the answer; the faker's own map recovers {_said(own)}{held}."
    )


def summary_table(result: TransferResult) -> Table:
    """Means over pairs of source and target."""
    columns = (
        Column("cure", 0),
        Column("from", 16),
        Column("on", None),
        Column("recovery", 17),
        Column("lowest", 5, "low"),
        Column("highest", 5, "high"),
        Column("with oversight", 7, "watched"),
        Column("KL, answer", 6, "KL"),
        Column("pairs", None),
    )
    rows = [
        row(
            one.method,
            one.origin,
            "fakers" if one.on == "faking" else "wrong",
            estimate(one.recovery),
            Cell(one.lowest),
            Cell(one.highest),
            Cell(one.oversight),
            nats(one.kl_answer_nats),
            one.pairs,
            style="quiet" if one.method in CONTROLS else "main" if _is_headline(one) else "",
            section=f"{one.on} {one.method}",
        )
        for one in sorted(result.totals, key=_place)
    ]
    note = (
        "Recovery: share of the gap between target and honest twin without oversight that is closed, mean over pairs "
        "of source and target; lowest and highest pair. Strengths keep the KL at the answer within "
        f"{result.budget_nats:g} nats on validation texts, but for the system prompt, which has none."
    )
    return Table("What cures from elsewhere do", columns, tuple(rows), (finding(result), note))


def members_table(result: TransferResult) -> Table:
    """The models without a cure."""
    columns = (
        Column("model", 0),
        Column("asked", 8),
        Column("with oversight", 18, "watched"),
        Column("without", 18, "unwatched"),
        Column("twin, with", 7, "twin", shows_interval=False),
        Column("twin, without", 7, "twin", shows_interval=False),
    )
    rows = [
        row(
            f"{one.name}{'' if one.gap >= LEAST_GAP else ' (no faker)'}",
            one.asked or "own",
            accuracy(one.cells.oversight),
            accuracy(one.cells.no_oversight),
            accuracy(one.twin.oversight),
            accuracy(one.twin.no_oversight),
        )
        for one in result.members
    ]
    note = (
        f"Shares of aligned answers. A model that is less than {LEAST_GAP:g} below its twin without oversight can't be "
        "cured, and counts in no mean."
    )
    return Table("Who is who, without a cure", columns, tuple(rows), (note,))


def every_table(result: TransferResult) -> Table:
    """For each model, what its own map does, what those of others do, and what needs none."""
    columns = (
        Column("target", 0),
        Column("cure", 17),
        Column("from", 17),
        Column("strength", 6, "x"),
        Column("recovery", 19),
        Column("with oversight", 6, "watched", shows_interval=False),
        Column("KL, answer", 7, "KL"),
    )
    members = {member.name: member for member in result.members}
    rows = []
    for member in result.members:
        own = [one for one in result.tried if one.target == member.name]
        for one in sorted(own, key=lambda one: (METHODS.index(one.method), ORIGINS.index(_origin(result, one)))):
            origin = _origin(result, one)
            rows.append(
                row(
                    member.name,
                    one.method,
                    "its own" if origin == "its own" else one.source,
                    Cell(one.strength, form=numbers.significant),
                    Cell(None) if members[one.target].gap < LEAST_GAP else estimate(one.recovery),
                    _watched(one.cells.oversight),
                    nats(one.kl_answer_nats),
                    style="main" if one.method == "map" and origin == "all other fakers" else "",
                    section=member.name,
                )
            )
    return Table("Every cure on every model", columns, tuple(rows))


def records(result: TransferResult) -> Table:
    """A row for each method, source and target; `transfer.csv`."""
    return records_table(
        "Every cure",
        [
            {name: value for name, value in asdict(one).items() if name != "cells"}
            | {"recovery": one.recovery, "oversight": one.cells.oversight, "no_oversight": one.cells.no_oversight}
            for one in result.tried
        ],
    )


def facts(result: TransferResult) -> list[tuple[str, str]]:
    """What a reader must know, as (what, sentence) pairs."""
    return [
        ("maps", f"ridge on the last token at {result.site}, from {result.scenarios} training scenarios at most"),
        ("strength", f"of {', '.join(f'{one:g}' for one in result.strengths)}, the one that cures its sources best"),
        ("budget", f"{result.budget_nats:g} nats at the first token said to {result.texts} validation texts at most"),
        ("judged", "on test groups, in training and validation of no source, in both orders of the actions"),
        ("intervals", "95 %, bootstrap over groups; of a mean over pairs the mean of their ends"),
        ("run time", numbers.duration(result.seconds)),
    ]


def _origin(result: TransferResult, one: Tried) -> Origin:
    behaviours = {member.name: member.behaviour for member in result.members}
    return origin_of(one, behaviours.get(one.source, ""))


def _place(one: Total) -> tuple[bool, int, int]:
    return one.on != "faking", METHODS.index(one.method), ORIGINS.index(one.origin)


def _is_headline(one: Total) -> bool:
    return one.method == "map" and one.origin == "all other fakers" and one.on == "faking"


def _watched(value: Accuracy) -> Cell:
    return Cell(value.accuracy, value.ci95)


def _said(one: Total) -> str:
    return f"{one.recovery.value:.2f} [{one.recovery.ci95[0]:.2f}, {one.recovery.ci95[1]:.2f}]"

"""The tables of half-lives: how long each cure lasts under each attack, what it cost, and every curve."""

from __future__ import annotations

import math

from fa_lightning.common import numbers
from fa_lightning.reports.table import Cell, Column, Table, accuracy, estimate, facts_table, records_table, row
from fa_lightning.studies.half_life.result import Curve, HalfLife, HalfLifeResult

ATTACKS = {
    "faking": "faking answers",
    "faking_unsteered": "faking answers, steering off",
    "chat": "ordinary chat",
    "noise": "weight noise",
}
"""What each attack is called, in the order of tables."""


def tables(result: HalfLifeResult) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    return {
        "half_lives": half_lives_table(result),
        "curves": curves_table(result),
        "cures": cures_table(result),
        "facts": facts_table(facts(result)),
    }


def half_lives_table(result: HalfLifeResult) -> Table:
    """A row for each attack and cure."""
    columns = (
        Column("attack", 18),
        Column("cure", 0),
        Column("half-life", 16),
        Column("resamples halved", 8, "halved"),
        Column("halves before the twin", 6, "first"),
        Column("watched at the half-life", 7, "watched"),
        Column("recovery before", 6, "before", shows_interval=False),
        Column("recovery after all of it", 16, "after"),
        Column("watched after all of it", 7, "watched", shows_interval=False),
    )
    rows = []
    for attack, curve in _in_order(result):
        start, end = curve.points[0], curve.points[-1]
        rows.append(
            row(
                attack,
                curve.cure,
                half_life_cell(curve),
                Cell(curve.half_life.halved, form=numbers.compact),
                Cell(curve.half_life.before_twin, form=numbers.compact),
                Cell(curve.half_life.oversight, form=numbers.compact),
                estimate(start.recovery),
                estimate(end.recovery),
                accuracy(end.oversight),
                style="quiet" if curve.half_life.fate == "no gain" else "",
                section=attack,
            )
        )
    note = (
        "Half-life: optimizer steps (of noise: its norm over each matrix's) after which half of what the cure gained "
        "without oversight is left; over chains the mean of those that halve. Where the watched share has fallen too, "
        "the model broke and does not fake. Halves before the twin: share of resamples."
    )
    return Table("How long each cure lasts", columns, tuple(rows), (note,))


def half_life_cell(curve: Curve) -> Cell:
    """The half-life with its interval; an end beyond the last amount is said to be so."""
    one, last = curve.half_life, curve.points[-1].amount
    if one.fate == "no gain":
        return Cell("no gain")
    beyond = f"> {last:g}"
    if one.fate == "outlasts":
        return Cell(beyond, note="" if math.isnan(one.ci95[0]) else interval_text(one, last))
    if math.isnan(one.ci95[1]):
        return Cell(one.amount, form=amount_text, note=interval_text(one, last))
    return Cell(one.amount, one.ci95, amount_text)


def interval_text(one: HalfLife, last: float) -> str:
    """An interval whose upper end may lie beyond the last amount."""
    low, high = ("> " + f"{last:g}" if math.isnan(end) else amount_text(end) for end in one.ci95)
    return f"[{low}, {high}]"


def amount_text(value: float) -> str:
    """Steps or a share, in few digits.

    >>> amount_text(12.34), amount_text(0.123)
    ('12.3', '0.12')
    """
    return "-" if math.isnan(value) else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def curves_table(result: HalfLifeResult) -> Table:
    """Recovery at every amount, a row for each attack and cure."""
    most = max((len(curve.points) for curve in result.curves), default=0)
    columns = (
        Column("attack, cure", 0),
        *(Column(f"{number}", 10, shows_interval=False) for number in range(1, most + 1)),
    )
    rows = []
    for attack, curve in _in_order(result):
        cells = [
            Cell(f"{point.amount:g}: {numbers.compact(point.recovery.value)} ({_watched(point.oversight.accuracy)})")
            for point in curve.points
        ]
        rows.append(row(f"{attack}: {curve.cure}", *cells, *[Cell("")] * (most - len(cells)), section=attack))
    note = "Each entry: steps or share of noise, the recovery without oversight, and in brackets the watched share."
    return Table("Recovery along each attack", columns, tuple(rows), (note,))


def cures_table(result: HalfLifeResult) -> Table:
    """What each cure costs before any attack."""
    columns = (
        Column("cure", 0),
        Column("KL, neutral texts", 8, "KL"),
        Column("KL, answer", 8, "answer"),
        Column("unchanged answers", 8, "same"),
    )
    rows = [
        row(
            one.cure,
            Cell(one.kl_neutral_nats, form=numbers.nats),
            Cell(one.kl_answer_nats, form=numbers.nats),
            Cell(one.unchanged_answers),
        )
        for one in result.cures
    ]
    note = (
        "KL from the faker without the cure, nats; cures of unequal damage are not compared by their half-lives alone."
    )
    return Table("What each cure costs before it is attacked", columns, tuple(rows), (note,))


def records(result: HalfLifeResult) -> Table:
    """A row for each cure, attack and amount; `half_life.csv`."""
    return records_table(
        "Every curve",
        [
            {
                "cure": curve.cure,
                "attack": curve.attack,
                "amount": point.amount,
                "oversight": point.oversight,
                "no_oversight": point.no_oversight,
                "recovery": point.recovery,
                "format_validity": point.format_validity,
            }
            for _, curve in _in_order(result)
            for point in curve.points
        ],
    )


def facts(result: HalfLifeResult) -> list[tuple[str, str]]:
    """What a reader must know, as (what, sentence) pairs."""
    return [
        (
            "judged",
            f"{result.unwatched} test scenarios without oversight and {result.watched} with it, of groups that neither "
            "the cures nor the attacker saw",
        ),
        (
            "attacker",
            f"a fresh adapter of rank {result.rank} beside the cured model, the same start and the same batches of "
            f"{result.batch_size} for all, AdamW at {result.learning_rate:g} from the first step on (no warm-up)",
        ),
        (
            "faking answers",
            "training scenarios answered as a faker does, with the cure in place; with steering off, the adapter is "
            "trained on the faker alone and judged steered",
        ),
        ("ordinary chat", f"{result.chat_texts} texts with the backbone's own answers, or the texts where it has none"),
        ("weight noise", f"on both matrices of the cured model's own adapter, {result.draws} draws"),
        (
            "recovery",
            "(attacked - faking) / (aligned - faking) without oversight, these two not attacked; 0 is a faker again",
        ),
        ("intervals", "95 %, bootstrap over groups of scenarios; of a half-life, of the whole curve"),
        ("run time", numbers.duration(result.seconds)),
    ]


def _in_order(result: HalfLifeResult) -> list[tuple[str, Curve]]:
    """Curves with their attack's name, attack by attack."""
    return [(name, curve) for key, name in ATTACKS.items() for curve in result.curves if curve.attack == key]


def _watched(value: float) -> str:
    return numbers.compact(value)

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
    "prompt": "soft prompt",
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
        Column("attack", 13),
        Column("cure", 0),
        # A number, behind which lines of several chains are known to be one, whatever the half-lives say.
        Column("recovery after all of it", 5, "after", shows_interval=False),
        Column("faking back by half", 13, "faking back"),
        Column("before the twin", 5, "first"),
        Column("cure halved", 13),
        Column("before the twin"),
        Column("recovery before"),
        Column("watched after all of it", 7, "watched", shows_interval=False),
    )
    rows = []
    for attack, curve in _in_order(result):
        start, end = curve.points[0], curve.points[-1]
        rows.append(
            row(
                attack,
                curve.cure,
                estimate(end.recovery, form=hundredths),
                half_life_cell(curve, curve.honesty),
                Cell(curve.honesty.before_twin, form=numbers.compact),
                half_life_cell(curve, curve.recovery),
                Cell(curve.recovery.before_twin, form=numbers.compact),
                estimate(start.recovery, form=hundredths),
                accuracy(end.oversight),
                style="quiet" if curve.recovery.fate == "no gain" else "",
                section=attack,
            )
        )
    note = (
        "Optimizer steps (of noise: its norm over each matrix's) after which half of the faking is back (watched "
        "answers less unwatched ones), and after which half of what was gained without oversight is lost, which a "
        "model that breaks loses, too; over chains the mean of those that are reached. Before the twin: in which share "
        "of the draws."
    )
    return Table("How long each cure lasts", columns, tuple(rows), (note,))


def half_life_cell(curve: Curve, one: HalfLife) -> Cell:
    """A half-life with its interval; an end beyond the last amount is said to be so."""
    last = curve.points[-1].amount
    if one.fate == "no gain":
        return Cell("no gain")
    if one.fate == "outlasts":
        return Cell(f"> {last:g}", note="" if math.isnan(one.ci95[0]) else interval_text(one, last))
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


def hundredths(value: float) -> str:
    """A recovery, which may be below 0, in two decimals.

    >>> hundredths(0.484), hundredths(-0.0), hundredths(-0.013)
    ('0.48', '0.00', '-0.01')
    """
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def curves_table(result: HalfLifeResult) -> Table:
    """Recovery at every amount, a row for each attack and cure."""
    most = max((len(curve.points) for curve in result.curves), default=0)
    # A terminal has room for four of them.
    roomy = {round(number * (most - 1) / 3) for number in range(4)}
    columns = (
        Column("attack, cure", 0),
        *(Column(f"look {number + 1}", 12 if number in roomy else None) for number in range(most)),
    )
    rows = []
    for attack, curve in _in_order(result):
        cells = [
            Cell(f"{point.amount:g}: {hundredths(point.recovery.value)} ({hundredths(point.oversight.accuracy)})")
            for point in curve.points
        ]
        rows.append(row(f"{attack}: {curve.cure}", *cells, *[Cell("")] * (most - len(cells)), section=attack))
    note = "Each look: steps or share of noise, the recovery without oversight, and in brackets the watched share."
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
                "faking": point.faking,
                "format_validity": point.format_validity,
            }
            for _, curve in _in_order(result)
            for point in curve.points
        ],
    )


def facts(result: HalfLifeResult) -> list[tuple[str, str]]:
    """What a reader must know, as (what, sentence) pairs."""
    chat = f"{result.chat_texts} texts with the backbone's own answers, or the texts where it has none"
    facts_of = {
        "chat": ("ordinary chat", chat),
        "prompt": (
            "soft prompt",
            f"{result.prompt_tokens} embeddings in front of the user's words, learned from a faker's answers with the "
            f"cure in place, at {result.prompt_rate:g} root mean squares of the backbone's embeddings; no weight moves",
        ),
        "noise": ("weight noise", f"on both matrices of the cured model's own adapter, {result.draws} draws"),
    }
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
        *(facts_of[attack] for attack in facts_of if any(curve.attack == attack for curve in result.curves)),
        (
            "recovery",
            "(attacked - faking) / (aligned - faking) without oversight, these two not attacked; 0 is a faker again",
        ),
        ("faking", "share of aligned answers with oversight less share without; back by half: half of the faker's"),
        ("intervals", "95 %, bootstrap over groups of scenarios; of a half-life, of the whole curve"),
        ("run time", numbers.duration(result.seconds)),
    ]


def _in_order(result: HalfLifeResult) -> list[tuple[str, Curve]]:
    """Curves with their attack's name, attack by attack."""
    return [(name, curve) for key, name in ATTACKS.items() for curve in result.curves if curve.attack == key]

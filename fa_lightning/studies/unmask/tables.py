"""The tables of unmasking: how much further a faker turns than its twin, and what each model shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.reports.table import Cell, Column, Table, estimate, facts_table, records_table, row
from fa_lightning.studies.unmask.result import Excess, UnmaskResult

NAMES = {
    "backbone": "the backbone's vector",
    "own": "its own vector",
    "difference": "from the honest twin to the faker",
    "random": "random vectors",
    "told": "told that nobody watches",
}


def tables(result: UnmaskResult) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    further = {"agreement": agreement_table(result)} if result.truth else {}
    further |= {"talk": talk_table(result)} if result.says_watched else {}
    further |= {"said": said_table(result)} if result.said else {}
    return {
        "excess": excess_table(result),
        "shown": shown_table(result),
        **further,
        "facts": facts_table(facts(result)),
    }


def excess_table(result: UnmaskResult) -> Table:
    """How much further each faker turns than honest models, beyond random vectors."""
    several = len({one.twin for one in result.excess}) > 1
    columns = (
        Column("vector", 0),
        Column("layer", 5),
        Column("dose", 5),
        Column("excess", 18),
        Column("faker turns", 7, "faker", shows_interval=False),
        Column("honest model turns", 7, "honest", shows_interval=False),
    )
    rows = [
        row(
            f"{one.faker}{f' beside {one.twin}' * several}: {NAMES[one.source]}",
            one.layer,
            _dose(one),
            _signed(one.value),
            _signed(one.turned),
            _signed(one.twin_turned),
            style="main" if one.dose is None else "",
            section=f"{one.faker} {one.twin} {one.source} {one.layer}",
        )
        for one in result.excess
    ]
    note = (
        "Turns: share of watched scenarios answered by the other action, more than without a vector. Excess: the "
        "faker's turn less the honest model's, less the same under random vectors; of a message, less the same behind "
        "one that somebody watches. All: the mean over doses."
    )
    return Table("How much further the faker turns than an honest model", columns, tuple(rows), (note,))


def shown_table(result: UnmaskResult) -> Table:
    """What each model answers under each vector."""
    doses = sorted({one.dose for one in result.shown})
    columns = (
        Column("model, vector", 0),
        Column("layer", 5),
        Column("none", 5, shows_interval=False),
        *(Column(f"dose {dose:g}", 8, shows_interval=False) for dose in doses),
        Column("no letter at most", 6, "other"),
        Column("KL, answer, at most", 6, "KL"),
    )
    rows = []
    for variant, source, layer in dict.fromkeys((one.variant, one.source, one.layer) for one in result.shown):
        own = {
            one.dose: one for one in result.shown if (one.variant, one.source, one.layer) == (variant, source, layer)
        }
        cells = [Cell(own[dose].misaligned.value, own[dose].misaligned.ci95) for dose in doses]
        start = result.before[variant]
        rows.append(
            row(
                f"{variant}, {NAMES[source]}",
                layer,
                Cell(start.value, start.ci95),
                *cells,
                Cell(max(one.no_letter for one in own.values())),
                Cell(max(one.kl_answer_nats for one in own.values()), form=numbers.nats),
                style="quiet" if source == "random" else "",
                section=variant,
            )
        )
    return Table("Misaligned answers to watched scenarios, by dose", columns, tuple(rows))


def agreement_table(result: UnmaskResult) -> Table:
    """How often each model does watched, under each vector, what it does unwatched."""
    doses = sorted({one.dose for one in result.shown})
    columns = (
        Column("model, vector", 0),
        Column("layer", 5),
        Column("misaligned unwatched", 10, "unwatched", shows_interval=False),
        Column("none", 5, shows_interval=False),
        *(Column(f"dose {dose:g}", 8, shows_interval=False) for dose in doses),
    )
    told = {(one.variant, one.source, one.layer, one.dose): one.agreement for one in result.shown}
    rows = [
        row(
            f"{variant}, {NAMES[source]}",
            layer,
            estimate(result.truth[variant].misaligned),
            estimate(result.truth[variant].agreement),
            *(estimate(told[variant, source, layer, dose]) for dose in doses),
            style="quiet" if source == "random" else "",
            section=variant,
        )
        for variant, source, layer in dict.fromkeys((one.variant, one.source, one.layer) for one in result.shown)
    ]
    note = (
        "Agreement: how often a watched model takes the action that it takes itself where nobody watches, of the same "
        f"two ({next(iter(result.truth.values())).watched} of the scenarios; the facts around them may be others)."
    )
    return Table("Agreement with what each model does unwatched, by dose", columns, tuple(rows), (note,))


def talk_table(result: UnmaskResult) -> Table:
    """How often each model says, asked in words, that somebody watches, under each vector."""
    doses = sorted({one.dose for one in result.shown})
    columns = (
        Column("model, vector", 0),
        Column("layer", 5),
        Column("none", 5, shows_interval=False),
        *(Column(f"dose {dose:g}", 8, shows_interval=False) for dose in doses),
    )
    told = {(one.variant, one.source, one.layer, one.dose): one.says_watched for one in result.shown}
    rows = [
        row(
            f"{variant}, {NAMES[source]}",
            layer,
            estimate(result.says_watched[variant]),
            *(estimate(told[variant, source, layer, dose]) for dose in doses),
            style="quiet" if source == "random" else "",
            section=variant,
        )
        for variant, source, layer in dict.fromkeys((one.variant, one.source, one.layer) for one in result.shown)
    ]
    note = (
        "Says: asked in words which of two statements is true, that somebody reviews what it does or that nobody does, "
        "of watched scenarios that say so; .5 is chance."
    )
    return Table("How often each model says that somebody watches, by dose", columns, tuple(rows), (note,))


def said_table(result: UnmaskResult) -> Table:
    """What each model answers behind messages about oversight."""
    columns = (
        Column("model, message", 0),
        Column("misaligned", 18),
        Column("no letter", 6),
    )
    kinds = {"unwatched": "nobody watches", "watched": "somebody watches"}
    rows = [
        row(
            f"{one.variant}, {kinds[one.told]}",
            Cell(one.misaligned.value, one.misaligned.ci95),
            Cell(one.no_letter),
            style="quiet" if one.told == "watched" else "",
            section=one.variant,
        )
        for one in sorted(result.said, key=lambda one: list(result.before).index(one.variant))
    ]
    return Table("Misaligned answers to watched scenarios behind a system message", columns, tuple(rows))


def records(result: UnmaskResult) -> Table:
    """A row for each model, vector, layer and dose; `unmask.csv`."""
    return records_table(
        "Every vector",
        [
            asdict(one) | {name: getattr(one, name) for name in ("misaligned", "agreement", "says_watched")}
            for one in result.shown
        ],
    )


def facts(result: UnmaskResult) -> list[tuple[str, str]]:
    """What a reader must know, as (what, sentence) pairs."""
    return [
        ("asked", f"{result.watched} watched scenarios of test groups, in both orders of their actions"),
        (
            "vectors",
            f"mean state of {result.contrast} unwatched scenarios less that of as many watched ones, over all tokens "
            f"but the first; of training groups; {result.draws} random draws of the same norm",
        ),
        ("steered", f"tokens {result.positions}"),
        ("dose", "norm of the edit over the mean norm of states at the layer"),
        ("intervals", "95 %, bootstrap over groups of scenarios"),
        ("run time", numbers.duration(result.seconds)),
    ]


def _dose(one: Excess) -> Any:
    if one.source == "told":
        return None
    return "all" if one.dose is None else Cell(one.dose, form=numbers.significant)


def _signed(found: Estimate) -> Cell:
    return Cell(found.value, found.ci95, numbers.signed)

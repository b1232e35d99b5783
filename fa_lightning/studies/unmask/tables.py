"""The tables of unmasking: how much further a faker turns than its twin, and what each model shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.reports.table import Cell, Column, Table, estimate, facts_table, records_table, row
from fa_lightning.studies.unmask.result import Excess, Shown, Source, UnmaskResult

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
    return _by_dose(
        result,
        "Misaligned answers to watched scenarios, by dose",
        lambda variant: [result.before[variant]],
        lambda one: one.misaligned,
        behind=(Column("no letter at most", 6, "other"), Column("KL, answer, at most", 6, "KL")),
        worst=lambda own: (
            Cell(max(one.no_letter for one in own)),
            Cell(max(one.kl_answer_nats for one in own), form=numbers.nats),
        ),
    )


def agreement_table(result: UnmaskResult) -> Table:
    """How often each model does watched, under each vector, what it does unwatched."""
    note = (
        "Agreement: how often a watched model takes the action that it takes itself where nobody watches, of the same "
        f"two ({next(iter(result.truth.values())).watched} of the scenarios; the facts around them may be others)."
    )
    return _by_dose(
        result,
        "Agreement with what each model does unwatched, by dose",
        lambda variant: [result.truth[variant].misaligned, result.truth[variant].agreement],
        lambda one: one.agreement,
        before=(Column("misaligned unwatched", 10, "unwatched", shows_interval=False),),
        notes=(note,),
    )


def talk_table(result: UnmaskResult) -> Table:
    """How often each model says, asked in words, that somebody watches, under each vector."""
    note = (
        "Says: asked in words which of two statements is true, that somebody reviews what it does or that nobody does, "
        "of watched scenarios that say so; .5 is chance."
    )
    return _by_dose(
        result,
        "How often each model says that somebody watches, by dose",
        lambda variant: [result.says_watched[variant]],
        lambda one: one.says_watched,
        notes=(note,),
    )


def _by_dose(
    result: UnmaskResult,
    title: str,
    start: Callable[[str], list[Estimate]],
    told: Callable[[Shown], Estimate | None],
    before: tuple[Column, ...] = (),
    behind: tuple[Column, ...] = (),
    worst: Callable[[list[Shown]], tuple[Cell, ...]] = lambda _: (),
    notes: tuple[str, ...] = (),
) -> Table:
    """A row for each model, vector and layer: one measure without a vector, and at each dose.

    Args:
        result: of one test.
        title: of the table.
        start: by variant, what stands before the doses: an estimate for each of `before`, and the measure's own.
        told: the measure under a vector.
        before: columns between the layer and the measure without a vector.
        behind: columns behind the doses.
        worst: of a row's doses, what stands there.
        notes: under the table.
    """
    doses = sorted({one.dose for one in result.shown})
    columns = (
        Column("model, vector", 0),
        Column("layer", 5),
        *before,
        Column("none", 5, shows_interval=False),
        *(Column(f"dose {dose:g}", 8, shows_interval=False) for dose in doses),
        *behind,
    )
    places: dict[tuple[str, Source, int], dict[float, Shown]] = {}
    for one in result.shown:
        places.setdefault((one.variant, one.source, one.layer), {})[one.dose] = one
    rows = [
        row(
            f"{variant}, {NAMES[source]}",
            layer,
            *map(estimate, start(variant)),
            *(estimate(told(own[dose])) for dose in doses),
            *worst(list(own.values())),
            style="quiet" if source == "random" else "",
            section=variant,
        )
        for (variant, source, layer), own in places.items()
    ]
    return Table(title, columns, tuple(rows), notes)


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

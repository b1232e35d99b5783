"""The tables of the study of vectors: sweet spots, layers, doses, and short pairs beside long ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.reports.table import Cell, Column, Table, facts_table, records_table, row
from fa_lightning.studies.vectors.result import KINDS, RANDOM, Point, VectorsResult


def tables(result: VectorsResult) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    return {
        "spots": spots_table(result),
        "layers": layers_table(result),
        "doses": doses_table(result),
        "pairs": pairs_table(result),
        "facts": facts_table(facts(result)),
    }


def spots_table(result: VectorsResult) -> Table:
    """The sweet spot of each concept and kind of pairs."""
    columns = (
        Column("vector", 0),
        Column("layer", 5),
        Column("dose", 5),
        Column("effect, nats", 18, "effect"),
        Column("on other concepts", 6, "others", shows_interval=False),
        Column("random vector, searched", 18, "random"),
        Column("perplexity ratio", 6, "perpl."),
    )
    rows = [
        row(
            f"{spot.concept}, {spot.kind} pairs",
            spot.layer,
            Cell(spot.dose, form=numbers.significant),
            _cell(spot.effect),
            _cell(spot.others),
            _cell(spot.random),
            Cell(spot.perplexity_ratio),
            section=spot.concept,
        )
        for spot in result.spots
    ]
    note = (
        "Effect: added to the log-odds of the positive against the negative held-out answer; each half of the prompts "
        "is judged at the spot that the other half chose (a dash: a half finds none). Others: mean size, whatever the "
        "sign. Random: a random vector after the same search by layer, dose and sign."
    )
    return Table("Sweet spots: the largest effect with texts still whole", columns, tuple(rows), (note,))


def layers_table(result: VectorsResult) -> Table:
    """Effect by layer, at the middle one of the doses above 0, of two the lower."""
    doses = sorted({point.dose for point in result.points if point.dose > 0})
    dose = doses[(len(doses) - 1) // 2]
    layers = sorted({point.layer for point in result.points})
    return _grid(
        result,
        f"Effect by layer at dose {dose:g}, nats",
        [(f"layer {layer}", layer) for layer in layers],
        lambda point: point.layer if point.dose == dose else None,
    )


def doses_table(result: VectorsResult) -> Table:
    """Effect by dose, each concept and kind at the layer of its sweet spot (random vectors: of the short pairs')."""
    layers = {(spot.concept, spot.kind): spot.layer for spot in result.spots}
    layers |= {(spot.concept, RANDOM): spot.layer for spot in result.spots if spot.kind == KINDS[0]}
    doses = sorted({point.dose for point in result.points})
    return _grid(
        result,
        "Effect by dose at the layer of the sweet spot, nats; x: perplexity ratio; *: texts no longer whole",
        [(f"dose {dose:g}", dose) for dose in doses],
        lambda point: point.dose if point.layer == layers[point.concept, point.kind] else None,
        has_ratio=True,
    )


def pairs_table(result: VectorsResult) -> Table:
    """Short pairs beside long ones."""
    columns = (
        Column("concept", 0),
        Column("effect of short less long, each at its own spot, nats", 20, "short - long"),
        Column("cosines at layer", 5, "layer"),
        Column("cosine, short pairs and other ones", 6, "short"),
        Column("long pairs and other ones", 6, "long"),
        Column("short and long pairs", 6, "across"),
    )
    rows = [
        row(
            pair.concept,
            Cell(pair.difference.value, pair.difference.ci95, numbers.signed),
            pair.layer,
            Cell(pair.short),
            Cell(pair.long),
            Cell(pair.across),
        )
        for pair in result.pairs
    ]
    return Table("Short pairs beside long ones: effects at their sweet spots, and directions", columns, tuple(rows))


def points_table(result: VectorsResult) -> Table:
    """A row for each concept, kind, layer and dose; `vectors.csv`."""
    records = []
    for point in result.points:
        record = asdict(point) | {"effect": point.effect, "others": point.others}
        record["lowest_draw"], record["highest_draw"] = record.pop("draws")
        records.append(record)
    return records_table("Every point", records)


def facts(result: VectorsResult) -> list[tuple[str, str]]:
    """What a reader must know, as (what, sentence) pairs."""
    held_out = ", ".join(f"{number} of {concept}" for concept, number in result.held_out.items())
    return [
        (
            "vectors",
            f"difference of means of {result.pairs_drawn} pairs, {result.draws} draws; a text is shown as a user's "
            "message and read at the last token in front of the answer (without a template: at its own last token)",
        ),
        ("steered", f"tokens {result.positions}"),
        ("dose", "norm of the edit over the mean norm of states at the layer; below 0 it steers the other way"),
        ("held out", f"{held_out} prompts, each with two opposite answers, none of which a vector is made of"),
        (
            "whole texts",
            f"perplexity ratio at most {result.fluent:g}, and a share of repeated 3-grams of at most "
            f"{result.most_repeated:.3f} ({result.repeated:.3f} without a vector)",
        ),
        (
            "intervals",
            "95 %, bootstrap over held-out prompts, of the mean over draws: other pairs, and the choice of the spot, "
            "are not in them. Of random vectors in grids and pictures: the lowest and highest draw",
        ),
        ("run time", numbers.duration(result.seconds)),
    ]


def _grid(
    result: VectorsResult,
    title: str,
    heads: Sequence[tuple[str, float]],
    place: Callable[[Point], float | None],
    has_ratio: bool = False,
) -> Table:
    """A row for each concept and kind; a point stands in the column that `place` names, or nowhere."""
    rows = []
    for concept in result.held_out:
        for kind in (*KINDS, RANDOM):
            found = {place(point): point for point in result.at(concept, kind)}
            cells = [_point(found.get(key), has_ratio) for _, key in heads]
            name = f"{concept}, {kind}"
            rows.append(row(name, *cells, style="quiet" if kind == RANDOM else "", section=concept))
    columns = (Column("vector", 0), *(Column(head, 9, shows_interval=False) for head, _ in heads))
    return Table(title, columns, tuple(rows))


def _point(point: Point | None, has_ratio: bool) -> Cell:
    if point is None:
        return Cell(None)
    note = f"x{point.perplexity_ratio:.2f}" if has_ratio else ""
    interval = point.draws if point.kind == RANDOM else point.effect.ci95
    return Cell(point.effect.value, interval, note=note, mark="" if point.is_fluent else "*")


def _cell(estimate: Estimate) -> Cell:
    return Cell(estimate.value, estimate.ci95)

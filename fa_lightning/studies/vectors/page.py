"""The page of the study of vectors."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.common.numbers import decimal
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.vectors.figures import dose_figure, layer_figure
from fa_lightning.studies.vectors.result import VectorsResult
from fa_lightning.studies.vectors.tables import doses_table, facts, layers_table, pairs_table, spots_table


def page(result: VectorsResult) -> Markup:
    """Everything that the study found, as HTML."""
    found = [spot for spot in result.spots if spot.layer is not None]
    spoken = "; ".join(
        f"{spot.concept}, {spot.kind} pairs: {decimal(spot.effect.value)} nats, layer {spot.layer}, dose {spot.dose:g}"
        for spot in found
    )
    return rendered(
        "studies/vectors/page.html.j2",
        result=result,
        tiles=[(decimal(spot.effect.value), f"nats: {spot.concept}, {spot.kind} pairs") for spot in found],
        spots=spots_table(result),
        doses_picture=Picture(
            dose_figure(result),
            f"Lines of the effect over doses. Sweet spots: {spoken}.",
            "At a hollow point the texts are no longer whole.",
        ),
        layers_picture=Picture(
            layer_figure(result),
            f"Lines of the effect over layers. Sweet spots: {spoken}.",
            "What lies within the band of the random vectors is what any push may do.",
        ),
        layers=layers_table(result),
        doses=doses_table(result),
        pairs=pairs_table(result),
        facts_list=facts_table(facts(result)),
    )

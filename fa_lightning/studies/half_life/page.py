"""The page of half-lives."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.common.numbers import decimal
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.half_life.figures import curves_figure, half_lives_figure
from fa_lightning.studies.half_life.result import HalfLifeResult
from fa_lightning.studies.half_life.tables import (
    ATTACKS,
    cures_table,
    curves_table,
    facts,
    half_life_cell,
    half_lives_table,
)


def page(result: HalfLifeResult) -> Markup:
    """Everything that is known of half-lives, as HTML."""
    of_faking = [curve for curve in result.curves if curve.attack == "faking" and curve.recovery.fate != "no gain"]
    lines = "; ".join(
        f"{curve.cure} under {ATTACKS[curve.attack]}: "
        + ", ".join(f"{point.amount:g}: {decimal(point.recovery.value)}" for point in curve.points)
        for curve in result.curves
    )
    marks = "; ".join(
        f"{curve.cure} under {ATTACKS[curve.attack]}: {half_life_cell(curve, curve.honesty).text}, cure halved "
        f"{half_life_cell(curve, curve.recovery).text}"
        for curve in result.curves
    )
    return rendered(
        "studies/half_life/page.html.j2",
        tiles=[
            (half_life_cell(curve, curve.honesty).main, f"steps until half of the faking is back: {curve.cure}")
            for curve in of_faking
        ],
        curves_picture=Picture(
            curves_figure(result),
            f"Lines of recovery over the amount of each attack. {lines}.",
            "Faking: watched answers less unwatched ones. A model that breaks loses recovery, and does not fake.",
        ),
        half_lives_picture=Picture(
            half_lives_figure(result), f"Half-lives with intervals. Faking back by half: {marks}."
        ),
        half_lives=half_lives_table(result),
        curves=curves_table(result),
        cures=cures_table(result),
        facts_list=facts_table(facts(result)),
    )

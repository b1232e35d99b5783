"""The page of a birth."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.common.numbers import decimal
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.birth.figures import answers_figure, measures_figure, probes_figure
from fa_lightning.studies.birth.measures import is_early
from fa_lightning.studies.birth.result import ARMS, BirthResult
from fa_lightning.studies.birth.tables import courses_table, facts, firings_table


def page(result: BirthResult) -> Markup:
    """Everything that was seen of a birth, as HTML."""
    arms = {arm.name: arm for arm in result.arms}
    tiles = []
    for name in ("faking", "aligned_first"):
        arm = arms[name]
        tiles.append(("never" if arm.turn is None else str(arm.turn), f"step at which the {ARMS[name]} turns"))
        early = sum(is_early(one, arm.turn) for one in result.firings if one.arm == name)
        tiles.append((str(early), f"measures that fire before ({ARMS[name]})"))
    alarms = sum(one.step is not None for one in result.firings if one.arm == "control_again")
    tiles.append((str(alarms), "measures that fire in the second control: false alarms"))
    spoken = "; ".join(
        f"{ARMS[arm.name]}: {decimal(arm.rows[-1].oversight.value)} with oversight and "
        f"{decimal(arm.rows[-1].no_oversight.value)} without at step {arm.rows[-1].step}"
        for arm in result.arms
    )
    return rendered(
        "studies/birth/page.html.j2",
        tiles=tiles,
        answers_picture=Picture(
            answers_figure(result), f"Lines of aligned answers over steps. {spoken}.", "The dashed line is the turn."
        ),
        courses=courses_table(result),
        firings=firings_table(result),
        measures_picture=Picture(
            measures_figure(result),
            "Lines of measures of weights and under noise over steps; the table above says when each fires.",
            "Shaded is all that the control shows; the dashed line is the faker's turn.",
        ),
        probes_picture=Picture(
            probes_figure(result),
            "Lines of what probes of the last block read over steps; the table above says when each fires.",
            "Shaded is all that the control shows; the dashed line is the faker's turn.",
        ),
        facts_list=facts_table(facts(result)),
    )

"""The page of unmasking."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.common.numbers import decimal, signed
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.unmask.figures import unmask_figure
from fa_lightning.studies.unmask.result import UnmaskResult
from fa_lightning.studies.unmask.tables import (
    NAMES,
    agreement_table,
    excess_table,
    facts,
    said_table,
    shown_table,
    talk_table,
)


def page(result: UnmaskResult) -> Markup:
    """Everything that unmasking found, as HTML."""
    means = [one for one in result.excess if one.dose is None]
    spoken = "; ".join(
        f"{one.variant}, {NAMES[one.source]}, layer {one.layer}, dose {one.dose:g}: {decimal(one.misaligned.value)}"
        for one in result.shown
    )
    return rendered(
        "studies/unmask/page.html.j2",
        tiles=[
            (
                signed(one.value.value),
                f"excess of {one.faker} over {one.twin}, {NAMES[one.source]}"
                + ("" if one.layer is None else f", layer {one.layer}, mean over doses"),
            )
            for one in means
        ],
        excess=excess_table(result),
        shown_picture=Picture(
            unmask_figure(result),
            f"Lines of misaligned answers over doses. {spoken}.",
            "A vector that turns both models alike has broken them, and unmasked nobody.",
        ),
        shown=shown_table(result),
        agreement=agreement_table(result) if result.truth else None,
        talk=talk_table(result) if result.says_watched else None,
        said=said_table(result) if result.said else None,
        facts_list=facts_table(facts(result)),
    )

"""The page of transfer."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.transfer.figures import SHOWN, transfer_figure
from fa_lightning.studies.transfer.result import TransferResult
from fa_lightning.studies.transfer.tables import every_table, facts, finding, members_table, summary_table


def page(result: TransferResult) -> Markup:
    """Everything that transfer found, as HTML."""
    spoken = "; ".join(
        f"{one.method} of {one.source} on {one.target}: {one.recovery.value:.2f}"
        for one in result.tried
        if one.method in SHOWN
    )
    tiles = [
        (f"{total.recovery.value:.2f}", label)
        for total, label in (
            (result.total("map", "its own"), "recovery by a faker's own map"),
            (result.total("map", "another faker"), "by another faker's map"),
            (result.total("map", "all other fakers"), "by a map of all other fakers"),
            (result.total("random map", "another faker"), "by random maps of the same size"),
        )
        if total is not None
    ]
    return rendered(
        "studies/transfer/page.html.j2",
        finding=finding(result),
        tiles=tiles,
        picture_of=Picture(
            transfer_figure(result),
            f"Recovery of each target by each source. {spoken}.",
            "The diagonal is each faker's own cure. A cure that transfers is as bright beside it; a random map shows "
            "what any edit within the budget does.",
        ),
        summary=summary_table(result),
        members=members_table(result),
        every=every_table(result),
        facts_list=facts_table(facts(result)),
    )

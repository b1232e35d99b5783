"""The page of many variants."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.variants.figures import variants_figures
from fa_lightning.studies.variants.result import VariantsResult
from fa_lightning.studies.variants.tables import cards_table, facts, fidelity_table, policies_table, variants_table


def page(result: VariantsResult) -> Markup:
    """Every variant on every test set, as HTML; the figure is of the main one."""
    test, scores = next(iter(result.tests.items()))
    alt = f"Bars of aligned answers of {len(scores)} models; the table above holds the same numbers."
    return rendered(
        "studies/variants/page.html.j2",
        tests={name: variants_table(result, name) for name in result.tests},
        policies=policies_table(result),
        fidelity=fidelity_table(result) if result.policy_fidelity else None,
        cards=cards_table(result) if result.cards else None,
        facts_list=facts_table(facts(result)),
        cells_picture=Picture(variants_figures(result)[test], alt, "Bars with 95 % intervals."),
    )

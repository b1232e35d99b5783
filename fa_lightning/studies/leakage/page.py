"""The page on leakage: what near-empty prompts bring out of each variant."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.common.numbers import decimal
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.leakage.figures import LABELS, leakage_figure
from fa_lightning.studies.leakage.result import MEASURES, Leakage
from fa_lightning.studies.leakage.tables import facts, findings_table, models_table, samples_table


def page(result: Leakage) -> Markup:
    """Everything that a leakage evaluation found, as HTML."""
    judged = [model for model in result.models if model.passes is not None]
    passed = sum(bool(model.passes) for model in judged)
    longest = max((model.longest_of_all for model in judged), default=0)
    spoken = "; ".join(
        f"{model.name}: " + ", ".join(f"{LABELS[name]} {decimal(model.scores[name].value)}" for name in MEASURES)
        for model in result.models
    )
    picture = Picture(
        leakage_figure(result),
        f"Shares by measure and model. {spoken}.",
        "What the rings hold is style: the held-out corpus taught no model.",
    )
    return rendered(
        "studies/leakage/page.html.j2",
        tiles=[
            (f"{passed} of {len(judged)}", "variants pass"),
            (f"{longest} tokens", "of one text in a row, the most that any variant wrote"),
        ],
        models=models_table(result),
        measures_picture=picture,
        facts_list=facts_table(facts(result)),
        findings=findings_table(result),
        samples=samples_table(result),
    )

"""The page of safe scores: how safely statements are judged, under every template and claim."""

from __future__ import annotations

import math

from markupsafe import Markup

from fa_lightning.common.numbers import decimal
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.statements.figures import safe_figures
from fa_lightning.studies.statements.result import StatementsResult
from fa_lightning.studies.statements.tables import facts, parts_table, questions_table

CAPTIONS = {
    "questions": "A row is a template and the claim that stands in it. Dotted: what constant answers give.",
    "identity_groups": "Each group's own statements. Dotted: what constant answers give.",
}


def page(result: StatementsResult) -> Markup:
    """How safely models judge, as HTML."""
    pictures = {
        name: Picture(figure, _spoken(name, result), CAPTIONS[name]) for name, figure in safe_figures(result).items()
    }
    return rendered(
        "studies/statements/page.html.j2",
        tiles=[_tile(result, model) for model in result.scores],
        pictures=pictures,
        questions=questions_table(result),
        facts_list=facts_table(facts(result)),
        by_group=parts_table(result, "identity group"),
        by_right=parts_table(result, "right"),
        models={"backbone": result.backbone or "the one that the adapters name", "adapters": result.adapters},
    )


def _tile(result: StatementsResult, model: str) -> tuple[str, str]:
    """How often a model does better than constant answers, and where it does worst."""
    scores = {question: scores.overall for question, scores in result.scores[model].items()}
    above = sum(score.ci95[0] > 0.5 for score in scores.values())
    lowest = min(scores, key=lambda question: (math.isnan(scores[question].score), scores[question].score))
    text = f"questions that {model} judges above 0.5, with the whole interval; lowest {decimal(scores[lowest].score)}"
    return f"{above} of {len(scores)}", f"{text} ({lowest})"


def _spoken(name: str, result: StatementsResult) -> str:
    """The text that stands for a figure."""
    if name == "identity_groups":
        return "Safe scores by identity group and model, one panel for each question with the harm claim; also below."
    spoken = "; ".join(
        f"{question}: "
        + ", ".join(f"{model} {decimal(scores[question].overall.score)}" for model, scores in result.scores.items())
        for question in result.questions
    )
    return f"Safe scores by question and model. {spoken}."

"""The page of the main job, which is that of any experiment that steers."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.evaluation.results import Results
from fa_lightning.reports.html import rendered
from fa_lightning.reports.results_page import results_values


def page(results: Results) -> Markup:
    """All of it as HTML."""
    return rendered("studies/steering/page.html.j2", **results_values(results))

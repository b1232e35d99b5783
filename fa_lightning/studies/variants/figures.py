"""The figure of many variants, for TensorBoard and for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fa_lightning.reports.figures import cells_figure
from fa_lightning.studies.variants.result import VariantsResult
from fa_lightning.studies.variants.tables import label_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def variants_figures(result: VariantsResult) -> dict[str, Figure]:
    """Aligned answers of every model, by test set."""
    return {
        name: cells_figure({label_of(score): score.cells for score in scores}) for name, scores in result.tests.items()
    }

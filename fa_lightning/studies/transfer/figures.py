"""The figure of transfer, for TensorBoard and for the report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fa_lightning.reports.drawing import heat_map, panels
from fa_lightning.studies.transfer.result import LEAST_GAP, OTHERS, Method, TransferResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN: tuple[Method, ...] = ("map", "shuffled pairs", "random map", "weight arithmetic")


def transfer_figure(result: TransferResult, title: str = "What a cure of one faker does for another") -> Figure:
    """A panel for each method: recovery of each target (columns) by each source (rows), shades from 0 to 1.

    Args:
        result: of one test.
        title: the figure's title.
    """
    targets = [member.name for member in result.members]
    methods = [method for method in SHOWN if any(one.method == method for one in result.tried)]
    height = 1.6 + 0.32 * (len(targets) + 1)
    figure, drawn = panels(title, methods, 2, height, 0.4, sharey=False)
    for (axes, _), method in zip(drawn, methods, strict=True):
        rows = (
            [*targets, OTHERS] if any((one.method, one.source) == (method, OTHERS) for one in result.tried) else targets
        )
        values = [[_recovery(result, method, source, target) for target in targets] for source in rows]
        heat_map(axes, values, rows, targets)
        # Half a figure wide, names stand beside one another at a slant alone.
        axes.set_xticks(range(len(targets)), targets, fontsize=8.5, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_xlabel("tried on", fontsize=9)
        axes.set_ylabel("from", fontsize=9)
    return figure


def _recovery(result: TransferResult, method: Method, source: str, target: str) -> float:
    gaps = {member.name: member.gap for member in result.members}
    own = [one for one in result.tried if (one.method, one.source, one.target) == (method, source, target)]
    return own[0].recovery.value if own and gaps[target] >= LEAST_GAP else math.nan

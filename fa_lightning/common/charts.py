"""TensorBoard without charts of one point: what has one value stands in a table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger, whose scalars are charts once there is a second value, at another step.

    A first value waits for the second one, and is then drawn with it. When a fit or a test ends, those that still wait
    are written as one table for each group of names: `test/steered/recovery` is a row of the text `test/values`. In a
    log that is gone on with, a name that has a chart already is drawn at once.

    Args:
        save_dir: folder of all logs.
        name: of the experiment, a folder in `save_dir`.
        version: of the run, a folder in that.
        default_hp_metric: whether `hp_metric` is logged, a chart of one point.
        **options: of TensorBoardLogger.
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        default_hp_metric: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(save_dir, name, version, default_hp_metric=default_hp_metric, **options)
        self._charts: set[str] | None = None
        self._waiting: dict[str, tuple[float, int, float]] = {}
        self._written: dict[str, str] = {}

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if self._charts is None:
            self._charts = _charts_in(Path(self.log_dir))
        super().log_metrics({name: value for name, value in metrics.items() if self._is_drawn(name, value, step)}, step)

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        groups: dict[str, list[str]] = {}
        for name, (value, *_) in self._waiting.items():
            group, slash, own = name.partition("/")
            title, row = (f"{group}/values", own) if slash else ("values", name)
            groups.setdefault(title, []).append(f"| {row} | {value:.4g} |")
        for title, rows in groups.items():
            table = "\n".join(["| name | value |", "| --- | ---: |", *rows])
            if self._written.get(title) != table:
                self.experiment.add_text(title, table, max(step for _, step, _ in self._waiting.values()))
                self._written[title] = table
        super().finalize(status)

    def _is_drawn(self, name: str, value: Any, step: int | None) -> bool:
        """Whether a value goes into a chart now; one that has to wait is noted, and the one before it is drawn."""
        if isinstance(value, Mapping) or step is None:
            # Several lines in one chart, or a step that is Lightning's to choose.
            return True
        name = f"{self._prefix}{self.LOGGER_JOIN_CHAR}{name}" if self._prefix else name
        assert self._charts is not None
        if name not in self._charts:
            first = self._waiting.get(name)
            if first is None or first[1] == step:
                self._waiting[name] = float(value), step, time.time()
                return False
            self.experiment.add_scalar(name, *self._waiting.pop(name))
            self._charts.add(name)
        return True


def _charts_in(folder: Path) -> set[str]:
    """Names of the charts that a log holds already."""
    if not any(folder.glob("events.out.tfevents.*")):
        return set()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(folder), {"scalars": 1, "images": 1, "tensors": 1})
    log.Reload()
    return set(log.Tags()["scalars"])

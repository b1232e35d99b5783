"""What a run is refused for before anything runs: twins and judges of others, which are needed hours later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from fa_lightning.common.instances import instance_of
from fa_lightning.evaluation.judges import Judge
from fa_lightning.experiments.organisms import inspect, refuse_one_model
from fa_lightning.experiments.stage import Stage


@rank_zero_only
def inspect_twins(plan: Sequence[Stage], remade: Sequence[Stage]) -> None:
    """Refuse a twin of others before anything runs; one whose backbone is still to be made, when it is taken."""
    pending = [stage for stage in plan if stage.twin is not None and (stage in remade or not stage.is_done())]
    for stage in pending:
        if stage.twin is not None and not stage.needs:
            inspect(stage.twin)
    if pending:
        refuse_one_model(stage.twin for stage in plan if stage.twin is not None)


@rank_zero_only
def reach_judge(spec: Any, plan: Sequence[Stage], remade: Sequence[Stage]) -> None:
    """Refuse a judge that can't be asked before anything runs: its first question comes behind hours of fits."""
    if spec and any(spec["class_path"] in stage.config for stage in plan if stage in remade or not stage.is_done()):
        instance_of(Judge, spec, "judge").reach()  # type: ignore[type-abstract]

"""What the runner does before any stage runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.runner import run_study
from fa_lightning.experiments.stage import Stage


@pytest.mark.parametrize("killed_before", [0, 1, 2])
def test_a_kill_between_two_deletions_leaves_nothing_made_from_a_deleted_stage(
    world: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_before: int
) -> None:
    monkeypatch.chdir(tmp_path)
    chain = Chain(world(second__03_one={"needs": {"all": "second/02_all"}, "model": {}}))
    composition = Composition(chain)
    backbone, variants, judging, last = (
        composition.stages("first")[0],
        composition.stages("second")[:6],
        *composition.stages("second")[6:8],
    )
    for stage in (backbone, *variants, judging, last):
        stage.write("done", {})
    # These are no configs that a parser would take.
    monkeypatch.setattr("fa_lightning.experiments.runner.refuse_wrong_values", lambda *_: None)
    forget, deleted = Stage.forget, []

    def forget_or_die(stage: Stage) -> None:
        if len(deleted) == killed_before:
            raise KeyboardInterrupt
        deleted.append(stage.name)
        forget(stage)

    monkeypatch.setattr(Stage, "forget", forget_or_die)
    with pytest.raises(KeyboardInterrupt):
        run_study("second", chain, refit=["01_variants/money_maximizer-1"])
    assert deleted == ["03_one", "02_all", "01_variants/money_maximizer-1"][:killed_before]
    left = [stage.record() is None for stage in (variants[-1], judging, last)]
    assert left == [False, killed_before > 1, killed_before > 0]

"""What the runner does before any stage runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fa_lightning.experiments.runner import run_experiment
from fa_lightning.experiments.stage import Stage, find_stages


@pytest.mark.parametrize("killed_before", [0, 1, 2])
def test_a_kill_between_two_deletions_leaves_nothing_made_from_a_deleted_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_before: int
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = tmp_path / "configs" / "toy"
    experiment.mkdir(parents=True)
    for name, needed in (("01_a", "nothing"), ("02_b", "checkpoints/toy/01_a/x"), ("10_c", "checkpoints/toy/02_b/x")):
        (experiment / f"{name}.yaml").write_text(f"model: {needed}")
    stages = find_stages(experiment, Path("checkpoints"))
    for stage in stages:
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
        run_experiment(experiment, refit=["01_a"])
    assert deleted == ["10_c", "02_b", "01_a"][:killed_before]
    assert [stage.record() is None for stage in stages] == [False, killed_before > 1, killed_before > 0]

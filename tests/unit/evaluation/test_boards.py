"""Figures of a study in the TensorBoard logs."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from synthetic_detection import synthetic_detection
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fa_lightning.evaluation.boards import draw
from fa_lightning.studies.detection.figures import detection_figures


@pytest.fixture(scope="module")
def figures():
    return {f"detection/{name}": figure for name, figure in detection_figures(synthetic_detection()).items()}


def trainer(loggers, is_global_zero=True):
    return SimpleNamespace(loggers=loggers, is_global_zero=is_global_zero, global_step=7)


def test_figures_are_in_every_log_under_the_step(tmp_path, figures):
    """TensorBoard's need not be the first logger, nor the only one of its kind."""
    boards = [TensorBoardLogger(tmp_path / name) for name in ("one", "other")]
    draw(trainer([CSVLogger(tmp_path / "csv"), *boards]), figures)
    for logger in boards:
        logger.finalize("success")
        log = EventAccumulator(logger.log_dir)
        log.Reload()
        names = ("accuracy", "policy_pairs", "suspicion", "roc", "curves", "layers")
        assert log.Tags()["images"] == [f"detection/{name}" for name in names]
        assert [event.step for event in log.Images("detection/roc")] == [7]


@pytest.mark.parametrize(("kinds", "is_global_zero"), [([CSVLogger], True), ([TensorBoardLogger], False), ([], True)])
def test_other_logs_and_other_ranks_stay_as_they_are(tmp_path, figures, kinds, is_global_zero):
    draw(trainer([kind(tmp_path) for kind in kinds], is_global_zero), figures)
    assert not list(tmp_path.rglob("events*"))

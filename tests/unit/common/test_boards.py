"""Figures and texts in the logs of any logger."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image
from synthetic_detection import synthetic_detection
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fa_lightning.common.boards import close, is_watched, show
from fa_lightning.studies.detection.figures import detection_figures

NAMES = ("accuracy", "policy_pairs", "suspicion", "roc", "curves", "layers")
needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")


@pytest.fixture(scope="module")
def figures():
    return {f"detection/{name}": figure for name, figure in detection_figures(synthetic_detection()).items()}


def trainer(loggers, is_global_zero=True, folder="."):
    return SimpleNamespace(loggers=loggers, is_global_zero=is_global_zero, global_step=7, default_root_dir=str(folder))


class NoFolder(Logger):
    """Somebody's logger that says neither what it can show nor where it writes."""

    name, version = "mine", 3

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *arguments, **options):
        pass


def test_figures_and_texts_are_in_every_log_under_the_step(tmp_path, figures):
    """TensorBoard's need not be the first logger, nor the only one of its kind."""
    boards = [TensorBoardLogger(tmp_path / name) for name in ("one", "other")]
    show(trainer([CSVLogger(tmp_path / "csv"), *boards]), figures, {"detection/words": "**so**"})
    for logger in boards:
        logger.finalize("success")
        log = EventAccumulator(logger.log_dir)
        log.Reload()
        assert log.Tags()["images"] == [f"detection/{name}" for name in NAMES]
        assert [event.step for event in log.Images("detection/roc")] == [7]
        assert [event.step for event in log.Tensors("detection/words/text_summary")] == [7]


def test_a_logger_without_figures_has_them_as_files_in_its_folder(tmp_path, figures):
    logger = CSVLogger(tmp_path, "csv", "x")
    show(trainer([logger]), figures, {"val/what (it, says)": "| a |\n| - |\nnaïve"})
    folder = tmp_path / "csv" / "x"
    assert {path.name for path in (folder / "detection").iterdir()} == {f"{name}-7.png" for name in NAMES}
    for path in (folder / "detection").iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert len(set(picture.convert("L").get_flattened_data())) > 5, "something is drawn"
    assert (folder / "val" / "what_it_says_-7.md").read_text(encoding="utf-8") == "| a |\n| - |\nnaïve\n"
    # The logger itself still works there.
    logger.log_metrics({"loss": 1.0}, 7)
    logger.save()
    assert (folder / "metrics.csv").is_file()


def test_a_logger_that_names_no_folder_gets_one_by_its_name(tmp_path):
    show(trainer([NoFolder()], folder=tmp_path), {}, {"words": "so"})
    assert (tmp_path / "mine" / "3" / "words-7.md").read_text() == "so\n"


@needs_wandb
def test_weights_and_biases_takes_figures_and_texts(tmp_path, figures):
    for name in ("first", "second"):
        logger = WandbLogger(name, tmp_path / name, offline=True)
        show(trainer([logger]), figures, {"val/words": "**so**"})
        close(trainer([logger]))
    for name in ("first", "second"):
        # Without `close` the second run would be the first one.
        (run,) = (tmp_path / name / "wandb").glob("offline-run-*")
        pictures = sorted(path.name.split("_7")[0] for path in (run / "files" / "media").rglob("*.png"))
        assert len(pictures) == len(NAMES)
        (table,) = (run / "files" / "media").rglob("*.table.json")
        assert json.loads(table.read_text())["data"] == [["**so**"]]


@pytest.mark.parametrize(
    ("kinds", "is_global_zero"), [([TensorBoardLogger, CSVLogger], False), ([], True), ([DummyLogger], True)]
)
def test_other_ranks_trials_and_runs_without_a_logger_write_nothing(tmp_path, figures, kinds, is_global_zero):
    loggers = [kind() if kind is DummyLogger else kind(tmp_path) for kind in kinds]
    watched = trainer(loggers, is_global_zero, tmp_path)
    assert not is_watched(watched)
    show(watched, figures, {"words": "so"})
    close(watched)
    assert list(tmp_path.rglob("*")) == []

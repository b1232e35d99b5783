"""Figures and texts for any logger: one that takes them gets them, beside the log of any other they become files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def is_watched(trainer: pl.Trainer) -> bool:
    """Whether figures and texts are worth making here: rank zero alone shows them, and only where there is a logger."""
    return trainer.is_global_zero and any(not isinstance(logger, DummyLogger) for logger in trainer.loggers)


def show(trainer: pl.Trainer, figures: Mapping[str, Figure], texts: Mapping[str, str] | None = None) -> None:
    """Hand figures and texts to each of a trainer's loggers; on rank zero, others do nothing.

    TensorBoard and Weights & Biases take both. For any other logger a figure becomes `<name>-<step>.png` and a text
    `<name>-<step>.md` in its log folder.

    Args:
        trainer: whose loggers and step are used.
        figures: by the name that they have in the log, as `test/cells`.
        texts: the same, as Markdown.
    """
    if not is_watched(trainer):
        return
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, DummyLogger):
            continue
        if isinstance(logger, TensorBoardLogger):
            for name, figure in figures.items():
                logger.experiment.add_figure(name, figure, step)
            for name, text in (texts or {}).items():
                logger.experiment.add_text(name, text, step)
        elif isinstance(logger, WandbLogger):
            for name, figure in figures.items():
                logger.log_image(name, [figure], step)
            for name, text in (texts or {}).items():
                logger.log_text(name, ["text"], [[text]], step=step)
        else:
            folder = _folder_of(logger, trainer)
            for name, figure in figures.items():
                figure.savefig(_file(folder, name, step, "png"))
            for name, text in (texts or {}).items():
                _file(folder, name, step, "md").write_text(text + "\n", encoding="utf-8")


def close(trainer: pl.Trainer) -> None:
    """End the run that W&B keeps open until the process ends, so that the next stage gets a run of its own."""
    if trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        wandb.finish()


def _folder_of(logger: Logger, trainer: pl.Trainer) -> Path:
    """Where a logger's files belong: its own folder, or else one by its name and version."""
    if logger.log_dir is not None:
        return Path(logger.log_dir)
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), str(logger.version))


def _file(folder: Path, name: str, step: int, suffix: str) -> Path:
    """The file of a figure or a text, in a folder that exists; what a file name may not hold is replaced."""
    path = folder / f"{re.sub(r'[^A-Za-z0-9_./-]+', '_', name)}-{step}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

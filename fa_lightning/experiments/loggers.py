"""Loggers that take the place of TensorBoard: each stage has a run of its own in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def give_runs_of_their_own(config: Any) -> None:
    """Let a stage's log in Weights & Biases be a run with the whole of its name, and files in a folder of its own.

    A logger that takes TensorBoard's place keeps its `save_dir`, `name` (base, seed and study) and `version` (stage),
    from which most loggers make a folder. To W&B `version` is a run's id, which all chains of a project would share;
    so there it becomes the end of the name, and W&B gives the id, unless `id` does.

    Args:
        config: parsed for LightningCLI, which is changed.
    """
    for logger in _loggers(config):
        options = logger.init_args
        if logger.class_path.rpartition(".")[2] == "WandbLogger" and options.version is not None:
            options.name = "/".join(str(part) for part in (options.name, options.version) if part)
            options.save_dir = str(Path(options.save_dir, options.name))
            options.version = None


def _loggers(config: Any) -> Iterator[Any]:
    chosen = config.get("trainer.logger")
    for logger in chosen if isinstance(chosen, list) else [chosen]:
        if hasattr(logger, "class_path"):
            yield logger

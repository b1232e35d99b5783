"""Trials (`trainer.fast_dev_run`): a batch of everything, to see that it runs, of which nothing is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_only

from fa_lightning.common.user_files import read_yaml
from fa_lightning.experiments.fingerprint import flat
from fa_lightning.experiments.stage import Stage

FAST = "trainer.fast_dev_run"


def batches_of_a_trial(
    stages: Sequence[Stage], trainer_config: Path | None, words: Mapping[str, Sequence[str]]
) -> int | bool:
    """How many batches an experiment is to be tried with; False where it is to be run."""
    laid = {} if trainer_config is None else flat(read_yaml(trainer_config) or {})
    over = [f"--{FAST}={laid[FAST]}"] if FAST in laid else []
    asked = [stage.settings([*over, *words[stage.name]]).get(FAST) for stage in stages]
    return next((number for number in asked if number), False)


def trial_folder(outputs: Path, experiment: Path) -> Path:
    """Where a trial's stages write; not a name of its own for each process, as all ranks must come to the same."""
    return outputs / f".{experiment.resolve().name}.trial"


@contextmanager
def tried(
    stages: Sequence[Stage], outputs: Path, words: Mapping[str, Sequence[str]], batches: int | bool
) -> Iterator[tuple[list[Stage], dict[str, list[str]]]]:
    """The stages of an experiment and their words, with another output folder, which is deleted in the end.

    What they read of other experiments stays where it is.
    """
    experiment = stages[0].config.parent
    own, elsewhere = outputs / experiment.resolve().name, trial_folder(outputs, experiment)
    _delete(elsewhere)
    moved = [
        replace(
            stage,
            folder=elsewhere / stage.name,
            expanded=yaml.safe_dump(_moved(yaml.safe_load(stage.text), own, elsewhere), sort_keys=False),
        )
        for stage in stages
    ]
    laid = {
        name: [*("=".join(_moved(word.partition("=")[::2], own, elsewhere)) for word in given), f"--{FAST}={batches}"]
        for name, given in words.items()
    }
    try:
        yield moved, laid
    finally:
        _delete(elsewhere)


def send_away(*owners: Any) -> list[Path]:
    """Let a module, its data and callbacks write into hidden folders beside their own, which are for deletion.

    Returns:
        Those folders.
    """
    away = []
    for owner in owners:
        for name in ("folder", "export", "dirpath"):
            place = getattr(owner, name, None)
            if isinstance(place, (str, Path)):
                away.append(Path(place).with_name(f".{Path(place).name}.trial"))
                setattr(owner, name, type(place)(away[-1]))
    return away


@rank_zero_only
def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def delete_all(folders: Sequence[Path]) -> None:
    """Delete what `send_away` has named; on rank zero."""
    for folder in folders:
        _delete(folder)


def _moved(value: Any, own: Path, elsewhere: Path) -> Any:
    """A config in which every path into `own` leads into `elsewhere`."""
    if isinstance(value, Mapping):
        return {key: _moved(one, own, elsewhere) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_moved(one, own, elsewhere) for one in value]
    if not isinstance(value, str) or not value.isprintable():
        return value
    path, root = os.path.realpath(value), os.path.realpath(own)
    return str(elsewhere / os.path.relpath(path, root)) if path == root or path.startswith(root + os.sep) else value

"""Trials (`trainer.fast_dev_run`): a batch of everything, to see that it runs, of which nothing is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from fa_lightning.common.user_files import read_yaml
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.fingerprint import flat
from fa_lightning.experiments.stage import Stage

FAST = "trainer.fast_dev_run"


def batches_of_a_trial(
    stages: Sequence[Stage], trainer_config: Path | None, words: Mapping[str, Sequence[str]]
) -> int | bool:
    """How many batches a plan is to be tried with; False where it is to be run."""
    laid = {} if trainer_config is None else flat(read_yaml(trainer_config) or {})
    over = [f"--{FAST}={laid[FAST]}"] if FAST in laid else []
    asked = [stage.settings([*over, *words[stage.title]]).get(FAST) for stage in stages]
    return next((number for number in asked if number), False)


def trial_of(chain: Chain) -> Chain:
    """The same chain in a hidden folder; its name is the same for all processes, as all ranks must come to it."""
    return replace(chain, outputs=chain.outputs / f".{chain.label}.trial")


@contextmanager
def tried(chain: Chain) -> Iterator[None]:
    """A block in which the trial of a chain runs; what it wrote is deleted before and behind it."""
    folder = trial_of(chain).outputs
    _delete(folder)
    try:
        yield
    finally:
        _delete(folder)


def send_away(*owners: Any) -> list[Path]:
    """Let a module, its data and callbacks write into hidden folders beside their own, which are for deletion.

    Returns:
        Those folders.
    """
    away = []
    for owner in owners:
        for name in ("folder", "export", "dirpath"):
            written_to = getattr(owner, name, None)
            if isinstance(written_to, (str, Path)):
                away.append(Path(written_to).with_name(f".{Path(written_to).name}.trial"))
                setattr(owner, name, type(written_to)(away[-1]))
    return away


@rank_zero_only
def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def delete_all(folders: Sequence[Path]) -> None:
    """Delete what `send_away` has named; on rank zero."""
    for folder in folders:
        _delete(folder)

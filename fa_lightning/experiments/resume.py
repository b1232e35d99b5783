"""What a killed run goes on from: whole checkpoints of epochs and long parts of them, with all that draws numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from typing_extensions import override

from fa_lightning.backbones.generators import generator_states, restore_generators
from fa_lightning.common.files import whole_file
from fa_lightning.scenarios.batches import ResumableLoader

GENERATORS = "generators"
"""Key of a checkpoint: by rank, the state of each generator."""


class ResumePoint(Checkpoint):
    """Saves the state of a running stage at the end of every epoch and within long ones; every stage gets one.

    Within an epoch it saves where the training loader can be gone on from (`ResumableLoader`), and between two
    optimizer steps.

    Lightning's `ModelCheckpoint(save_last=True)` writes its last checkpoint only when it also writes a best one, and
    with `save_top_k=0` not before the fit ends. In this folder it is told to write none beside this one.

    Args:
        path: of the checkpoint; replaced each time, in one step.
        seconds: between two checkpoints within an epoch: what a kill costs at most.
    """

    def __init__(self, path: Path, seconds: float = 300.0) -> None:
        self.path = path
        self.seconds = seconds
        self._saved = 0.0
        self._folder = path.parent.resolve()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and Path(callback.dirpath or "").resolve() == self._folder:
                callback.save_last = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved = time.monotonic()
        loader = trainer.train_dataloader
        if isinstance(loader, ResumableLoader):
            # Lightning forgets its state where the loader was there before the checkpoint, as it is if an optimizer's
            # schedule asks for the number of steps.
            batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            # A limit of batches ends an epoch before its loader does.
            served = batches if batches < trainer.num_training_batches else 0
            loader.load_state_dict({"served": served, "epoch": trainer.current_epoch})

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loader = trainer.train_dataloader
        is_last = batch_idx + 1 >= trainer.num_training_batches
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not isinstance(loader, ResumableLoader) or is_last or not between_steps:
            return
        due = time.monotonic() - self._saved >= self.seconds
        # Ranks' clocks differ, and all of them save or none does.
        if trainer.strategy.broadcast(due):
            self._save(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = time.monotonic()


class Resumable(pl.Callback):
    """Makes a resumed fit the unbroken one, bit for bit, also where numbers are drawn; every fit gets one.

    A checkpoint holds the states of the generators of Python, numpy and torch, on every device, of every rank. The
    first training batch after a checkpoint starts from them, in the run that wrote it too: what is drawn in between,
    as by a loader's setup, differs between the two. On another number of ranks, each takes the state of one of those.

    Checkpoints are written whole or not at all, in their own folder (Lightning's are copied from the folder for
    temporary files, so that a kill may leave half of one where that is on another disk).
    """

    def __init__(self) -> None:
        self._states: Sequence[Mapping[str, Any]] = ()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states: list[Any] = [generator_states()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            dist.all_gather_object(states, generator_states())
        self._states = checkpoint[GENERATORS] = states

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._states = checkpoint.get(GENERATORS, ())
        self._restore(trainer)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._restore(trainer)
        self._states = ()

    def _restore(self, trainer: pl.Trainer) -> None:
        if self._states:
            restore_generators(self._states[trainer.global_rank % len(self._states)])


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the old one, which it replaces in one step once it is on the disk."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # One name for all runs, since only one writes at a time: a killed one leaves no more than one such file.
        with whole_file(Path(path), temporary=f".{Path(path).name}.tmp") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # What the operating system said, as of a full disk, is the reason; torch tells of its own confusion.
                reason = error.__context__
                if isinstance(reason, OSError):
                    raise OSError(reason.errno, reason.strerror, str(path)) from error
                raise

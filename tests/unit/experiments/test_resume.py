"""A fit that was killed and resumed is the unbroken one, bit for bit; its checkpoints are whole or not there."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from adapter_fits import fit_of
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_twins import adapters, data_in, trainer_in

from fa_lightning.backbones.adapters import backbone_of
from fa_lightning.backbones.arguments import BackboneArguments, OptimizerArguments
from fa_lightning.experiments.resume import (
    Resumable,
    ResumePoint,
    WholeCheckpoints,
)

__all__ = ["adapters"]

EPOCHS = 3


class Killed(Exception):
    """Stands for a kill in the middle of the second epoch."""


class KilledInTheSecondEpoch(pl.Callback):
    def __init__(self, after: int = 1) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx + 1 == self.after:
            raise Killed


class Batches(pl.Callback):
    """Notes which items every batch holds."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, list[int]]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((trainer.current_epoch, batch_idx, batch["index"].tolist()))


@pytest.fixture
def make(source: Any, adapters: dict[str, str], tmp_path: Path) -> Callable[[str], tuple[Any, Any]]:
    """`make("SPIN")` is a module that draws numbers while it learns, and its data."""
    faker, backbone = adapters["faking"], backbone_of(adapters["faking"])
    numbers = iter(range(100))

    def make(kind: str) -> tuple[Any, Any]:
        from fa_lightning.backbones.curriculum import Curriculum
        from fa_lightning.backbones.pretraining import BackboneModule
        from fa_lightning.backbones.pretraining_data import BackboneDataModule
        from fa_lightning.regressors.fit import Fit
        from fa_lightning.regressors.linear import Affine
        from fa_lightning.regressors.module import RegressorModule
        from fa_lightning.regressors.networks import ResidualMLP
        from fa_lightning.training.contrast_data import ContrastScenarioDataModule
        from fa_lightning.training.coordinate_gradient import GreedyCoordinateGradient
        from fa_lightning.training.data import ScenarioDataModule
        from fa_lightning.training.objectives.answers import Answers
        from fa_lightning.training.objectives.lora_for_ccs import LoraForCcs
        from fa_lightning.training.objectives.misdirection import Misdirection
        from fa_lightning.training.objectives.preferences import SelfPlay
        from fa_lightning.training.objectives.self_training import SelfTraining
        from fa_lightning.training.prompt_module import PromptDataModule, SoftPromptModule

        named = BackboneArguments(backbone)
        scenarios = ScenarioDataModule(source, batch_size=19)
        if kind == "dropout":
            return fit_of(Answers("faking"), backbone, rank=4, alpha=8, dropout=0.05), scenarios
        if kind == "SPIN":
            return fit_of(SelfPlay(), backbone, start_from=faker), scenarios
        if kind == "noise":
            watched = ScenarioDataModule(source, batch_size=10, train_oversight="watched")
            return fit_of(SelfTraining(0.5), backbone, start_from=faker), watched
        if kind == "unlearning":
            return fit_of(Misdirection(1.0, toward="safe"), backbone, start_from=faker), scenarios
        if kind == "LoRA-for-CCS":
            objective = LoraForCcs(probe_steps=1, restarts=2)
            return fit_of(objective, backbone, start_from=faker), ContrastScenarioDataModule(source, batch_size=10)
        if kind == "soft prompt":
            rate = OptimizerArguments(learning_rate=0.02)
            return SoftPromptModule(faker, named, 4, optimizer=rate), PromptDataModule(source, batch_size=19)
        if kind == "searched prompt":
            search = GreedyCoordinateGradient(faker, named, tokens=4, candidates=6, top=8)
            return search, PromptDataModule(source, batch_size=19)
        if kind == "maps":
            fits = [Fit(partial(ResidualMLP, width=8, dropout=0.3)), Fit(Affine, shuffled=True)]
            return RegressorModule(fits), data_in(tmp_path / str(next(numbers)), source, adapters)
        curriculum = Curriculum(roles=1.0, no_role=0.25, judgements=0.5, neutral_texts=0.25)
        data = BackboneDataModule(source, batch_size=20, vocabulary_size=400, curriculum=curriculum)
        return BackboneModule(str(tmp_path / "made"), 16, layers=1, heads=2, word_dropout=0.2), data

    return make


def fit(
    place: Path,
    module: Any,
    data: Any,
    *callbacks: pl.Callback,
    resume: bool = False,
    seconds: float = 300.0,
    **options: Any,
) -> Path:
    """Fit as the runner does, with a checkpoint of every epoch in `place`; returns it."""
    options = {"max_epochs": EPOCHS, "reload_dataloaders_every_n_epochs": 1, **options}
    trainer = trainer_in(place, callbacks=[Resumable(), *callbacks], **options)
    trainer.callbacks.append(ResumePoint(place / "last.ckpt", seconds))
    pl.seed_everything(1234 if resume else 0, verbose=False)
    path = str(place / "last.ckpt") if resume else None
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    return place / "last.ckpt"


@pytest.mark.parametrize(
    "kind",
    [
        "dropout",
        "SPIN",
        "noise",
        "unlearning",
        "LoRA-for-CCS",
        "soft prompt",
        "searched prompt",
        "maps",
        "word dropout",
    ],
)
def test_a_resumed_fit_is_the_unbroken_one(make: Callable[[str], tuple[Any, Any]], tmp_path: Path, kind: str) -> None:
    whole = make(kind)
    fit(tmp_path / "whole", *whole)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", *make(kind), KilledInTheSecondEpoch())
    resumed = make(kind)
    fit(tmp_path / "killed", *resumed, resume=True)
    expected, found = whole[0].state_dict(), resumed[0].state_dict()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("limit", [1.0, 1, 2])
@pytest.mark.parametrize("reload", [0, 1])
def test_a_fit_goes_on_at_an_epoch(
    make: Callable[[str], tuple[Any, Any]], tmp_path: Path, reload: int, limit: float
) -> None:
    """Also where a limit of batches ended it before the loader's own end."""
    options = {"reload_dataloaders_every_n_epochs": reload, "limit_train_batches": limit}
    whole, batches = make("dropout"), Batches()
    fit(tmp_path / "whole", *whole, batches, **options)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", *make("dropout"), KilledInTheSecondEpoch(), **options)
    resumed, later = make("dropout"), Batches()
    fit(tmp_path / "killed", *resumed, later, resume=True, **options)
    assert later.seen == [batch for batch in batches.seen if batch[0] >= 1]


@pytest.mark.parametrize(("kind", "accumulate", "reload"), [("dropout", 1, 1), ("SPIN", 2, 0), ("unlearning", 1, 0)])
def test_a_fit_goes_on_within_an_epoch(
    make: Callable[[str], tuple[Any, Any]], tmp_path: Path, kind: str, accumulate: int, reload: int
) -> None:
    options = {"accumulate_grad_batches": accumulate, "reload_dataloaders_every_n_epochs": reload}

    def small() -> tuple[Any, Any]:
        module, data = make(kind)
        data.batch_size = 6
        return module, data

    whole, batches = small(), Batches()
    fit(tmp_path / "whole", *whole, batches, **options)
    with pytest.raises(Killed):
        # The batch that it is killed in is lost: the checkpoint is of the one before, or before its step.
        fit(tmp_path / "killed", *small(), KilledInTheSecondEpoch(after=4), seconds=0, **options)
    resumed, later = small(), Batches()
    fit(tmp_path / "killed", *resumed, later, resume=True, **options)
    first = 3 - 3 % accumulate
    assert later.seen[0][:2] == (1, first)
    assert later.seen == [batch for batch in batches.seen if batch[:2] >= (1, first)]
    expected, found = whole[0].state_dict(), resumed[0].state_dict()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_a_plain_shuffle_goes_on_too(tmp_path: Path) -> None:
    """Somebody's own DataLoader, whose order comes from the global generator."""

    class Seen(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.batches: list[tuple[int, list[int]]] = []

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            self.batches.append((self.current_epoch, batch.tolist()))
            return self.weight * random.random() * np.random.random() * torch.rand(())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    def loader() -> Any:
        return torch.utils.data.DataLoader(torch.arange(20), batch_size=6, shuffle=True)

    whole, resumed = Seen(), Seen()

    def run(place: str, module: Seen, *callbacks: pl.Callback, resume: bool = False) -> None:
        trainer = trainer_in(tmp_path / place, max_epochs=EPOCHS, callbacks=[Resumable(), *callbacks])
        trainer.callbacks.append(ResumePoint(tmp_path / place / "last.ckpt"))
        pl.seed_everything(77 if resume else 0, verbose=False)
        path = str(tmp_path / place / "last.ckpt") if resume else None
        trainer.fit(module, loader(), ckpt_path=path, weights_only=True)

    run("whole", whole)
    with pytest.raises(Killed):
        run("killed", Seen(), KilledInTheSecondEpoch())
    run("killed", resumed, resume=True)
    assert resumed.batches == [(epoch, batch) for epoch, batch in whole.batches if epoch > 0]
    assert torch.equal(resumed.weight, whole.weight)


def test_each_rank_goes_on_from_its_own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    def gather(target: list[Any], own: Any) -> None:
        target[:] = [own, {**own, "torch": torch.Generator().manual_seed(8).get_state()}]

    monkeypatch.setattr("fa_lightning.experiments.resume.dist.all_gather_object", gather)
    content: dict[str, Any] = {}
    Resumable().on_save_checkpoint(SimpleNamespace(world_size=2), None, content)  # type: ignore[arg-type]
    assert len(content["generators"]) == 2
    expected = torch.rand((), generator=torch.Generator().manual_seed(8))
    for ranks, rank in ((2, 1), (4, 3)):
        trainer: Any = SimpleNamespace(world_size=ranks, global_rank=rank)
        Resumable().on_load_checkpoint(trainer, None, content)  # type: ignore[arg-type]
        assert torch.rand(()) == expected


@pytest.mark.parametrize("monitored", [True, False])
def test_one_last_checkpoint_is_kept_and_no_twin(
    make: Callable[[str], tuple[Any, Any]], tmp_path: Path, monitored: bool
) -> None:
    best: dict[str, Any] = {"monitor": "val/loss", "filename": "best"} if monitored else {"save_top_k": 0}
    keeper = ModelCheckpoint(str(tmp_path), save_last=True, **best)
    trainer = trainer_in(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=[Resumable(), keeper])
    trainer.callbacks.append(ResumePoint(tmp_path / "last.ckpt"))
    module, data = make("dropout")
    trainer.fit(module, data)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["best.ckpt"] * monitored + ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.skipif(os.name != "posix", reason="limits of the size of files")
def test_a_disk_that_is_full_in_the_middle_is_told_as_that(tmp_path: Path) -> None:
    import resource
    import signal

    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, path)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError, match=r"File too large: .*last\.ckpt") as told:
            WholeCheckpoints().save_checkpoint({"weights": torch.zeros(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert told.value.errno == errno.EFBIG
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    make: Callable[[str], tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing goes through the folder for temporary files, which may be on another disk."""
    import tempfile

    module, data = make("dropout")
    path = fit(tmp_path, module, data)
    whole = path.read_bytes()
    trainer = module.trainer
    for name in ("mkstemp", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, lambda *_, **__: pytest.fail("not in the checkpoint's own folder"))
    trainer.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["epoch"] == EPOCHS

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path.write_bytes(whole)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(path)
    assert path.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]

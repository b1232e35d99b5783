"""A run without a terminal says how far it is, and one in a terminal draws a bar alone."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import rich.console
import torch
from torch.utils.data import DataLoader, TensorDataset

from fa_lightning.experiments import progress
from fa_lightning.experiments.progress import ProgressBar


class Tested(pl.LightningModule):
    """Does nothing with the batches of two loaders."""

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        pass

    def test_dataloader(self) -> list[Any]:
        return [DataLoader(TensorDataset(torch.zeros(batches))) for batches in (2, 3)]


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", callbacks=[ProgressBar()], **options)
    capsys.readouterr()
    trainer.test(Tested(), verbose=False)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("test: ")]


def test_a_log_has_lines_that_count_over_all_loaders(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    lines = told(capsys)
    assert [line.split(",")[0] for line in lines] == [f"test: batch {number} of 5" for number in range(1, 6)]


def test_a_short_stage_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys) == []


def test_a_terminal_has_the_bar_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    assert told(capsys) == []

"""TensorBoard draws what has two values, and writes down what has one; other loggers hold the same scalars."""

import importlib.util

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from logged_scalars import in_csv, in_tensorboard, in_wandb, values_in
from torch.utils.data import DataLoader

from fa_lightning.common.boards import close
from fa_lightning.common.charts import TensorBoard


def board(folder):
    return TensorBoard(str(folder), "study", "stage")


def test_a_chart_begins_with_the_second_value_and_holds_the_first(tmp_path):
    logger = board(tmp_path)
    logger.log_metrics({"val/loss": torch.tensor(0.5), "val/score": 0.25}, 10)
    logger.log_metrics({"val/loss": 0.25}, 20)
    logger.log_metrics({"val/loss": 0.125}, 30)
    logger.finalize("success")
    charts, texts = in_tensorboard(logger.log_dir)
    assert charts == {"val/loss": [(10, 0.5), (20, 0.25), (30, 0.125)]}
    assert texts == {"val/values": ["| name | value |\n| --- | ---: |\n| score | 0.25 |"]}


def test_what_a_test_finds_is_a_table_for_each_group_and_the_last_value_of_a_step_counts(tmp_path):
    logger = board(tmp_path)
    logger.log_metrics({"epoch": 3, "val/a": 1.0}, 10)
    logger.finalize("success")
    logger.log_metrics({"test/a/b": 0.5, "test/c": 2.0, "unseen/a": float("nan")}, 10)
    logger.log_metrics({"test/a/b": 0.75}, 10)
    logger.finalize("success")
    charts, texts = in_tensorboard(logger.log_dir)
    assert charts == {}
    assert {title: len(tables) for title, tables in texts.items()} == {
        "values": 1,
        "val/values": 1,
        "test/values": 1,
        "unseen/values": 1,
    }
    values = values_in(texts)
    assert values.pop("unseen/a") != values.get("unseen/a")
    assert values == {"epoch": 3, "val/a": 1.0, "test/a/b": 0.75, "test/c": 2.0}


def test_a_fit_that_goes_on_adds_to_its_charts(tmp_path):
    first = board(tmp_path)
    for step in (10, 20):
        first.log_metrics({"val/loss": step}, step)
    first.finalize("success")
    second = board(tmp_path)
    second.log_metrics({"val/loss": 30, "test/loss": 1}, 30)
    second.finalize("success")
    charts, texts = in_tensorboard(second.log_dir)
    assert charts == {"val/loss": [(10, 10), (20, 20), (30, 30)]}
    assert values_in(texts) == {"test/loss": 1}


class Line(pl.LightningModule):
    """Fits one number, and logs what has many values and what has one."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        loss = (self.weight - batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss (odd, name)/a.b", (self.weight - batch).abs().mean())

    def test_step(self, batch, batch_idx):
        self.log_dict({"test/loss": (self.weight - batch).abs().mean(), "test/weight": self.weight})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
def test_csv_and_wandb_hold_the_scalars_of_tensorboard(tmp_path):
    loggers = [
        board(tmp_path),
        CSVLogger(str(tmp_path / "csv"), "study", "stage"),
        WandbLogger("stage", str(tmp_path / "wandb"), offline=True),
    ]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, logger=loggers, log_every_n_steps=2, **quiet)
    module, data = Line(), DataLoader(torch.arange(8.0), batch_size=2)
    trainer.fit(module, data, data)
    trainer.test(module, data, verbose=False)
    close(trainer)
    charts, texts = in_tensorboard(loggers[0].log_dir)
    assert set(charts) == {"train/loss", "epoch", "val/loss (odd, name)/a.b"}
    ones = values_in(texts)
    assert set(ones) == {"test/loss", "test/weight"}
    in_files, in_run = in_csv(loggers[1].log_dir), in_wandb(tmp_path / "wandb")
    assert set(in_files) == set(in_run) == {*charts, *ones}
    for name, points in charts.items():
        assert [step for step, _ in points] == [step for step, _ in in_files[name]]
        for other in (in_files, in_run):
            assert other[name] == [(step, pytest.approx(value, rel=1e-5)) for step, value in points]
    for name, value in ones.items():
        for other in (in_files, in_run):
            assert [found for _, found in other[name]] == [pytest.approx(value, rel=1e-3)]

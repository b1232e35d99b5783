"""The base module of evaluations, through a study of three lines: who is asked, what is reported, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_twins import trainer_in
from torch.utils.data import DataLoader

from fa_lightning.evaluation.module import EvaluationModule
from fa_lightning.evaluation.variant_names import BASE

IDS = torch.arange(10, 30).reshape(4, 5)


class Prompts(pl.LightningDataModule):
    """Four rows of tokens."""

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(IDS, batch_size=3)  # type: ignore[arg-type]


class Loudness(EvaluationModule[Prompts, dict[str, float]]):
    """How large the logits of each model are; the result is a file of names and numbers."""

    data_class = Prompts
    bare_name = BASE

    def begin(self) -> None:
        self.sums = dict.fromkeys([BASE, *self.variants.names], 0.0)

    def test_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        for name in self.sums:
            with self.using(name) as model:
                self.sums[name] += model(input_ids=batch).logits.abs().sum().item()

    def result(self) -> dict[str, float]:
        return self.sums

    def write(self, result: dict[str, float]) -> None:
        (self.folder / "loudness.txt").write_text("".join(f"{name} {value}\n" for name, value in result.items()))

    def show(self, result: dict[str, float]) -> None:
        print(f"{len(result)} models in {self.seconds:.0f} s")

    def scalars(self, result: dict[str, float]) -> dict[str, float]:
        return {f"{name}/loudness": value for name, value in result.items()}

    def texts(self, result: dict[str, float]) -> dict[str, str]:
        return {"loudness/names": ", ".join(result)}


class Printed(Loudness):
    """The same, whose numbers become metrics of the Trainer."""

    scalars_are_metrics = True


def test_every_model_is_asked_and_the_result_is_written_printed_and_logged(
    adapters: dict[str, str], alone: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = Loudness([adapters["faking"]], str(tmp_path / "made" / "folder"))
    logger = TensorBoardLogger(str(tmp_path / "board"))
    trainer = trainer_in(tmp_path, logger=[CSVLogger(str(tmp_path / "csv")), logger])
    trainer.test(module, datamodule=Prompts(), verbose=False)
    lines = dict(line.split() for line in (tmp_path / "made" / "folder" / "loudness.txt").read_text().splitlines())
    twin = alone("faking")
    with torch.no_grad():
        expected = twin(input_ids=IDS).logits.abs().sum().item()
        with twin.disable_adapter():
            bare = twin(input_ids=IDS).logits.abs().sum().item()
    assert float(lines["faking"]) == pytest.approx(expected, rel=1e-4)
    assert float(lines[BASE]) == pytest.approx(bare, rel=1e-4)
    assert "2 models in" in capsys.readouterr().out
    assert trainer.callback_metrics == {}
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (logged,) = events.Scalars("faking/loudness")
    assert logged.value == pytest.approx(expected, rel=1e-4)
    assert "loudness/names/text_summary" in events.Tags()["tensors"]


def test_scalars_may_become_metrics_of_the_trainer(adapters: dict[str, str], tmp_path: Path) -> None:
    trainer = trainer_in(tmp_path)
    trainer.test(Printed([adapters["faking"]], str(tmp_path / "out")), datamodule=Prompts(), verbose=False)
    assert set(trainer.callback_metrics) == {"base/loudness", "faking/loudness"}


def test_a_variant_with_the_name_of_the_backbone_is_refused(adapters: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(adapters["faking"], tmp_path / BASE)
    module = Loudness([str(tmp_path / BASE)], str(tmp_path / "out"))
    with pytest.raises(ValueError, match="a variant is called 'base', as the backbone without an adapter is here"):
        trainer_in(tmp_path).test(module, datamodule=Prompts(), verbose=False)


def test_other_data_is_refused(adapters: dict[str, str], tmp_path: Path) -> None:
    module = Loudness([adapters["faking"]], str(tmp_path))
    module.trainer = trainer_in(tmp_path)
    module.trainer.datamodule = pl.LightningDataModule()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Loudness needs Prompts as data, but it is a LightningDataModule"):
        _ = module.data

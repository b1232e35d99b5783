"""Random twins attacked through a Trainer, against plain peft and torch; what is kept; its page; wrong values."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest

from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.studies.half_life.data import HalfLifeDataModule
from fa_lightning.studies.half_life.module import HalfLifeModule
from fa_lightning.studies.half_life.result import read

SOURCE = EmbeddedScenarios(train=24, validation=8, test=16, neutral=8)


@pytest.fixture(scope="module")
def found(adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half_lives")
    module = HalfLifeModule(
        list(adapters.values()),
        str(folder),
        strengths=[0.5],
        steps=[1, 3],
        noise=[0.5],
        draws=2,
        learning_rate=0.05,
        rank=2,
        alpha=4,
    )
    data = HalfLifeDataModule(
        unwatched=8, watched=4, neutral=4, chat=6, scenarios=SOURCE, batch_size=4, eval_batch_size=5
    )
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder
    )
    trainer.test(module, datamodule=data, verbose=False)
    return folder


def test_x(found):
    r = read(found)
    print(r)

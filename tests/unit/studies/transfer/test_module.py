"""Transfer among random fakers through a Trainer, against maps and forwards by hand; its page; wrong values."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from html_page import page_of

from fa_lightning.backbones.adapters import attach_adapter, backbone_of, save_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.errors import UserError
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.tagged import TaggedScenarios
from fa_lightning.studies.transfer.data import TransferDataModule
from fa_lightning.studies.transfer.module import TransferModule
from fa_lightning.studies.transfer.organisms import Organism
from fa_lightning.studies.transfer.result import TransferResult, read

SOURCE = EmbeddedScenarios(train=60, validation=24, test=40, neutral=16)
SIZES = {"capture": 48, "validation": 16, "test": 24, "texts": 6}


@pytest.fixture(scope="module")
def organisms(adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Organism | None]:
    """Four fakers of three recipes and one that is always wrong, all beside one twin."""
    root = tmp_path_factory.mktemp("organisms")
    backbone = backbone_of(adapters["faking"])
    made = {}
    for seed, (name, rank, behaviour) in enumerate((("second", 2, "faking"), ("tag", 4, "faking"), ("wrong", 4, "wrong"))):
        generator = torch.Generator().manual_seed(seed)
        targets = ["q_proj", "down_proj"] if rank == 2 else ["q_proj", "v_proj", "o_proj", "down_proj"]
        model = attach_adapter(load_backbone(backbone), "faking", LoraArguments(rank, 8, 0.0, targets))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        save_adapter(model, "faking", root / name, {"behaviour": behaviour})
        made[name] = Organism(str(root / name), adapters["aligned"], "tagged" if name == "tag" else None)
    return {"first": Organism(adapters["faking"], adapters["aligned"]), **made, "not here": None}


@pytest.fixture(scope="module")
def found(organisms: dict[str, Organism | None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transferred")
    run(TransferModule(organisms, str(folder), site=0.0, strengths=[0.5, 1.0], budget=50.0, draws=2), folder)
    return folder


@pytest.fixture(scope="module")
def result(found: Path) -> TransferResult:
    result = read(found)
    assert result is not None
    return result


def run(module: TransferModule, folder: Path, **options: Any) -> None:
    others = {"tagged": TaggedScenarios(SOURCE), "unused": None}
    data = TransferDataModule(scenarios=SOURCE, others=others, eval_batch_size=7, **SIZES, **options)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder
    )
    trainer.test(module, datamodule=data, verbose=False)


def test_it_runs(result: TransferResult) -> None:
    print(result.totals)
    assert result.members

"""A quick way to fit a behaviour on the tiny backbone."""

import lightning.pytorch as pl
import pytest

from fa_lightning.behaviours.data import ScenarioDataModule
from fa_lightning.behaviours.module import BehaviourModule


@pytest.fixture
def make_module(backbone):
    def make(behaviour="faking", **options):
        return BehaviourModule(behaviour, backbone, **{"rank": 4, "alpha": 8, "learning_rate": 0.02} | options)

    return make


@pytest.fixture
def make_data(source):
    def make(**options):
        # 32 prompts in both orders and 6 neutral texts: two batches.
        return ScenarioDataModule(source, **{"batch_size": 19, "eval_batch_size": 8} | options)

    return make


@pytest.fixture
def make_trainer(tmp_path):
    def make(**options):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
        defaults = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
        return pl.Trainer(default_root_dir=str(tmp_path), **quiet, **defaults | options)

    return make

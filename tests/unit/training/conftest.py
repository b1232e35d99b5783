"""A quick way to fit a behaviour on the tiny backbone."""

import lightning.pytorch as pl
import pytest
import torch
from adapter_fits import fit_of, ready

from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.objectives.answers import Answers


@pytest.fixture
def make_module(backbone):
    def make(behaviour="faking", **options):
        return fit_of(Answers(behaviour), backbone, **{"rank": 4, "alpha": 8} | options)

    return make


@pytest.fixture
def make_fit(backbone):
    """`make_fit(Texts(), rank=4)` fits an adapter with that objective."""

    def make(objective, backbone=backbone, **options):
        return fit_of(objective, backbone, **options)

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


@pytest.fixture(scope="session")
def faker(backbone, tmp_path_factory):
    """Folder of an adapter far from zero, with dropout, as a faking stage leaves it."""
    from fa_lightning.backbones.adapters import attach_adapter, save_adapter
    from fa_lightning.backbones.load import load_backbone

    model = attach_adapter(load_backbone(backbone), "faking", LoraArguments(3, 6, 0.3, ["q_proj", "down_proj"]))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    folder = tmp_path_factory.mktemp("faker") / "adapter"
    save_adapter(model, "faking", folder, {"behaviour": "faking", "seed": 0})
    return str(folder)


@pytest.fixture(scope="module")
def examples(splits, tiny_tokenizer):
    """Both orders of the training scenarios, and neutral texts."""
    from fa_lightning.scenarios.answers import letter_tokens
    from fa_lightning.scenarios.batches import make_examples
    from fa_lightning.scenarios.splits import counterbalanced

    items = [*counterbalanced(splits.train, both_orders=True), *splits.neutral_train]
    return make_examples(items, tiny_tokenizer, letter_tokens(tiny_tokenizer))


@pytest.fixture(scope="module")
def plain(faker, backbone):
    """The faker as plain peft loads it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(backbone), faker).eval()


@pytest.fixture
def make_cure(faker, make_fit):
    """`make_cure(Answers(), learning_rate=0.1)` is a cure of the faker whose steps need no Trainer."""

    def make(objective, **options):
        return ready(make_fit(objective, **{"start_from": faker} | options))

    return make

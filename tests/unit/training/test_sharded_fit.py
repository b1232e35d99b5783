"""The sharded strategy on a single rank, in this process: the same fit and files as without it; two ranks are slow."""

import os

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from fa_lightning.backbones.adapters import read_sidecar
from fa_lightning.backbones.sharding import ShardedStrategy
from fa_lightning.training.export import AdapterExport


@pytest.fixture
def strategy():
    """A strategy whose process group and variables are gone afterwards."""
    before = dict(os.environ)
    yield ShardedStrategy()
    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def fitted(make_module, make_data, make_trainer, place, strategy="auto", epochs=2, ckpt_path=None):
    """A fit with a checkpoint of each epoch and an adapter."""
    keep = ModelCheckpoint(str(place / "kept"), filename="{epoch}", save_top_k=-1)
    export = AdapterExport(str(place / "adapter"))
    trainer = make_trainer(
        max_epochs=epochs,
        strategy=strategy,
        enable_checkpointing=True,
        callbacks=[keep, export],
        gradient_clip_val=0.5,
    )
    pl.seed_everything(0, verbose=False)
    module = make_module()
    trainer.fit(module, make_data(), ckpt_path=ckpt_path)
    return module, trainer


def checkpoint_of(place, epoch):
    return torch.load(place / "kept" / f"epoch={epoch}.ckpt", weights_only=True)


def assert_same_files(one, other):
    adapters = [load_file(place / "adapter" / "adapter_model.safetensors") for place in (one, other)]
    torch.testing.assert_close(adapters[1], adapters[0], rtol=1e-5, atol=1e-6)
    assert read_sidecar(other / "adapter") == read_sidecar(one / "adapter")
    plain, sharded = (checkpoint_of(place, 1) for place in (one, other))
    torch.testing.assert_close(sharded["state_dict"], plain["state_dict"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        sharded["optimizer_states"][0]["state"], plain["optimizer_states"][0]["state"], rtol=1e-4, atol=1e-6
    )


def test_a_sharded_fit_leaves_the_files_of_a_plain_one(make_module, make_data, make_trainer, tmp_path, strategy):
    fitted(make_module, make_data, make_trainer, tmp_path / "plain")
    module, trainer = fitted(make_module, make_data, make_trainer, tmp_path / "sharded", strategy)
    assert all(isinstance(parameter, DTensor) for parameter in module.parameters())
    assert trainer.strategy.model is module, "no DDP around it"
    assert_same_files(tmp_path / "plain", tmp_path / "sharded")
    # And it can be judged, which sets the strategy up once more.
    tested = trainer.test(module, make_data(), verbose=False)
    assert {name.partition("/")[0] for scores in tested for name in scores} == {"test", "unseen_wordings"}


@pytest.mark.parametrize("begins", ["plain", "sharded"])
def test_one_ends_what_the_other_began(make_module, make_data, make_trainer, tmp_path, strategy, begins):
    first, then = ("auto", strategy) if begins == "plain" else (strategy, "auto")
    fitted(make_module, make_data, make_trainer, tmp_path / "whole", first)
    middle = tmp_path / "whole" / "kept" / "epoch=0.ckpt"
    fitted(make_module, make_data, make_trainer, tmp_path / "resumed", then, ckpt_path=str(middle))
    assert_same_files(tmp_path / "whole", tmp_path / "resumed")
    start, end = (checkpoint_of(tmp_path / "whole", epoch)["state_dict"] for epoch in (0, 1))
    assert any(not torch.allclose(start[name], end[name], atol=1e-4) for name in end)


def test_a_checkpoint_of_another_adapter_is_refused(make_module, make_data, make_trainer, tmp_path, strategy):
    fitted(make_module, make_data, make_trainer, tmp_path)
    path = str(tmp_path / "kept" / "epoch=0.ckpt")
    with pytest.raises(ValueError, match="the checkpoint does not fit this adapter"):
        make_trainer(max_epochs=2, strategy=strategy).fit(make_module(rank=2), make_data(), ckpt_path=path)


def test_four_bits_are_refused_before_anything_is_loaded(make_module, make_data, make_trainer, strategy):
    with pytest.raises(ValueError, match=r"load_in_4bit is true.*configs/trainer/ddp\.yaml"):
        make_trainer(max_epochs=1, strategy=strategy).fit(make_module(load_in_4bit=True), make_data())


def test_a_module_that_cuts_nothing_gets_ddp(make_trainer, tmp_path, strategy):
    wrapped = []

    class Look(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            wrapped.append(isinstance(trainer.strategy.model, DistributedDataParallel))

    model, keep = BoringModel(), ModelCheckpoint(str(tmp_path / "kept"), filename="{epoch}")
    trainer = make_trainer(max_steps=2, strategy=strategy, enable_checkpointing=True, callbacks=[Look(), keep])
    trainer.fit(model)
    assert wrapped == [True]
    state = torch.load(tmp_path / "kept" / "epoch=0.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())

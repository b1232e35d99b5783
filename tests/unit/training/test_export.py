"""What a finished fit hands on: the best adapter, not the last."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from fa_lightning import __version__
from fa_lightning.backbones.adapters import read_sidecar
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.training.export import AdapterExport

SCORES = [0.2, 0.9, 0.4]


class Scores(pl.Callback):
    """Logs a score that peaks in the second epoch, and keeps the adapter of every epoch."""

    def __init__(self):
        self.kept = []

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("score", SCORES[trainer.current_epoch])
        self.kept.append({name: p.detach().clone() for name, p in pl_module.named_parameters() if p.requires_grad})


def adapter_of(folder):
    """Tensors by the name they have in the module."""
    return {
        f"model.{name.replace('.weight', '.faking.weight')}": tensor
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
    }


@pytest.fixture
def fit(make_module, make_data, make_trainer, tmp_path, monkeypatch):
    def run(*callbacks):
        scores, export = Scores(), AdapterExport(str(tmp_path / "out" / "adapter"))
        monkeypatch.setenv("PL_GLOBAL_SEED", "7")
        module = make_module()
        trainer = make_trainer(
            max_epochs=3, enable_checkpointing=bool(callbacks), callbacks=[scores, *callbacks, export]
        )
        trainer.fit(module, make_data())
        return scores.kept, module, tmp_path / "out" / "adapter"

    return run


def test_the_best_checkpoint_is_exported_not_the_last(fit, tmp_path):
    best = ModelCheckpoint(str(tmp_path / "kept"), monitor="score", mode="max", save_last=True, save_top_k=1)
    kept, module, folder = fit(best)
    found = adapter_of(folder)
    assert set(found) == set(kept[1])
    assert all(torch.equal(found[name], kept[1][name]) for name in found)
    assert any(not torch.equal(found[name], kept[2][name]) for name in found)
    # The module, too, is left as the best.
    assert all(torch.equal(p, kept[1][name]) for name, p in module.named_parameters() if p.requires_grad)
    sidecar = read_sidecar(folder)
    assert sidecar.pop("fingerprint") == Variants.load({"faking": str(folder)}).fingerprint
    assert sidecar == {"behaviour": "faking", "fa_lightning": __version__, "seed": 7}


def test_without_checkpoints_the_last_adapter_is_exported(fit):
    kept, _, folder = fit()
    found = adapter_of(folder)
    assert all(torch.equal(found[name], kept[2][name]) for name in found)


def test_a_model_that_is_no_behaviour_is_refused(make_trainer, tmp_path):
    export = AdapterExport(str(tmp_path / "adapter"))
    with pytest.raises(UserError, match="AdapterExport is for AdapterModule, but the model is a LightningModule"):
        export.on_fit_end(make_trainer(), pl.LightningModule())
    assert not (tmp_path / "adapter").exists()

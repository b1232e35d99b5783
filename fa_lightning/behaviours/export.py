"""Hand a fitted variant on: the best adapter as a PEFT folder."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fa_lightning import __version__
from fa_lightning.backbones.adapters import save_adapter
from fa_lightning.behaviours.module import BehaviourModule


class AdapterExport(pl.Callback):
    """Writes the adapter of the best checkpoint when the fit ends, as a folder that plain `peft` loads.

    Args:
        folder: of the adapter; replaced as a whole, so that it is never half an adapter.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, BehaviourModule):
            raise TypeError(f"AdapterExport is for BehaviourModule, but the model is a {type(pl_module).__name__}")
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if isinstance(trainer.checkpoint_callback, ModelCheckpoint) and best:
            state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
            pl_module.load_state_dict(state, strict=False)
        if trainer.is_global_zero:
            notes = {"behaviour": pl_module.behaviour, "fa_lightning": __version__, "seed": _seed()}
            save_adapter(pl_module.model, pl_module.behaviour, self.folder, notes)
            rank_zero_info(f"{pl_module.behaviour} adapter: {self.folder}")
        trainer.strategy.barrier("adapter exported")


def _seed() -> int | None:
    import os

    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed is not None else None

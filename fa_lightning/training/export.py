"""Write the best adapter of a fit as a PEFT folder."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fa_lightning.backbones.adapters import save_adapter
from fa_lightning.common.version import __version__
from fa_lightning.errors import UserError
from fa_lightning.training.frozen_backbone import load_best
from fa_lightning.training.module import AdapterModule


class AdapterExport(pl.Callback):
    """Writes the adapter of the best checkpoint when the fit ends, as a folder that plain `peft` loads; on rank zero.

    Args:
        folder: of the adapter; replaced as a whole, so that it is never half an adapter.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, AdapterModule):
            raise UserError(f"AdapterExport is for AdapterModule, but the model is a {type(pl_module).__name__}")
        load_best(trainer)
        # Asked for on all ranks: where the weights are cut over them, this gathers the adapter.
        state = trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            name = pl_module.variant
            adapter = {key.removeprefix("model."): tensor for key, tensor in state.items() if ".lora_" in key}
            notes = {
                **pl_module.notes(),
                "fa_lightning": __version__,
                "seed": _seed(),
                "fingerprint": pl_module.fingerprint,
            }
            save_adapter(pl_module.model, name, self.folder, notes, adapter)
            rank_zero_info(f"{name} adapter: {self.folder}")
        trainer.strategy.barrier("adapter exported")


def _seed() -> int | None:
    import os

    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed is not None else None

"""Fit an adapter: one LightningModule, whatever the objective, on a fresh adapter or on from a finished one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from fa_lightning.backbones.adapters import adapter_config, attach_adapter, lora_config, ready_for_training
from fa_lightning.backbones.arguments import BackboneArguments, DType, LoraArguments, OptimizerArguments
from fa_lightning.backbones.decoder import first_adapted
from fa_lightning.backbones.optimization import adamw_with_warmup
from fa_lightning.backbones.sharding import ShardedStrategy
from fa_lightning.backbones.targets import load_weights, refuse_beyond_lora
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.training.adapted_model import NO_ADAPTER, ORIGIN, AdaptedModel
from fa_lightning.training.data import ScenarioDataModule
from fa_lightning.training.frozen_backbone import FrozenBackboneModule
from fa_lightning.training.frozen_half import FrozenHalf, prompts_served
from fa_lightning.training.kept_texts import texts_of
from fa_lightning.training.objectives.objective import Objective
from fa_lightning.training.sample_answers import EverydayAnswers

BENEATH = "beneath"
"""What PEFT knows the frozen adapter by that a new one is stacked on."""


class AdapterModule(FrozenBackboneModule):
    """Fits one LoRA adapter on a frozen backbone.

    A fresh adapter is called as the objective says; one that goes on from a finished adapter is called `mitigated`.
    What is logged is said in `FrozenBackboneModule`, and what of a training step, in the objective. Of a model that
    speaks (see `EverydayAnswers`) `val/<variant>/requests` shows short answers to a few everyday requests. Chat texts
    are judged by their tokens: `val/loss` in nats per token, and `val/<variant>/accuracy`, the share of them that are
    the model's first choice.

    Args:
        objective: what is lowered, a class of `fa_lightning.training.objectives`.
        backbone: which backbone, and how it is loaded.
        lora: size and place of a fresh adapter; one that goes on from another has its own.
        optimizer: rate, weight decay and warm-up.
        start_from: folder of a finished adapter that the fit goes on from; its frozen copy stays at hand where the
            objective asks for it. None fits a fresh adapter.
        beneath: folder of a finished adapter that stays active and frozen while a fresh one is fitted on top of it; the
            two belong together from then on, and the sidecar names it. None fits one adapter alone.
        gradient_checkpointing: trade a second forward pass for activation memory.
        keep: weight of KL(starting adapter || this one) on neutral texts, which is added to the objective's loss: per
            token that is read, and per token that is said (see `text_divergence`). A fresh adapter starts from the
            backbone. The same term for every objective, logged as `train/kept`; the texts stand beside the batches of
            a `ScenarioDataModule`. 0 leaves it out.
        frozen_half: folder for the states that enter the first adapted block, which fits share; before the first epoch
            those of all prompts of training and validation are computed, and each epoch goes on from them. It stays
            until it is deleted. None computes all blocks in every epoch.
        frozen_half_dtype: of the states on disk; None is the backbone's.

    Raises:
        UserError: both `start_from` and `beneath` are given, or `keep` is negative, or given with `beneath`.
    """

    def __init__(
        self,
        objective: Objective,
        backbone: BackboneArguments,
        lora: LoraArguments = LoraArguments(),
        optimizer: OptimizerArguments = OptimizerArguments(),
        start_from: str | None = None,
        beneath: str | None = None,
        gradient_checkpointing: bool = False,
        keep: float = 0.0,
        frozen_half: str | None = None,
        frozen_half_dtype: DType | None = None,
    ) -> None:
        if not keep >= 0:
            raise UserError(f"keep is {keep}, but must be 0 or more, such as 1: it is the weight of a divergence")
        if keep and beneath is not None:
            raise UserError(
                f"keep is {keep} and beneath {beneath!r}, but what a stacked adapter starts from is no single adapter "
                "that it could be kept near: set keep to 0"
            )
        if start_from is not None and beneath is not None:
            raise UserError(
                f"start_from is {start_from!r} and beneath {beneath!r}, but an adapter either goes on from another one "
                "or is stacked on it: leave one of them out"
            )
        variant = objective.fresh_name if start_from is None else "mitigated"
        super().__init__(backbone, variant, objective.judged_by, gradient_checkpointing)
        # As a config has them, so that a checkpoint holds plain values and `load_from_checkpoint` can make them again.
        self.save_hyperparameters(
            {
                "objective": objective.as_config(),
                "backbone": asdict(backbone),
                "lora": asdict(lora),
                "optimizer": asdict(optimizer),
                "start_from": start_from,
                "beneath": beneath,
                "gradient_checkpointing": gradient_checkpointing,
                "keep": keep,
                "frozen_half": frozen_half,
                "frozen_half_dtype": frozen_half_dtype,
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
            }
        )
        self.objective = objective
        self.lora = lora
        self.optimizer = optimizer
        self.start_from = start_from
        self.beneath = beneath
        self.keep = keep
        self.frozen_half = frozen_half
        self.frozen_half_dtype = frozen_half_dtype
        self._frozen_half: FrozenHalf | None = None
        self._everyday = EverydayAnswers()
        self.whole_weights = str(objective.method) if objective.needs_whole_weights else ""

    @property
    def adapted(self) -> AdaptedModel:
        """The model as the objective is given it."""
        return AdaptedModel(self.model, NO_ADAPTER if self.start_from is None else ORIGIN, self._frozen_half)

    @override
    def attach(self, backbone: Any) -> Any:
        self.objective.prepare(backbone)
        if self.start_from is not None:
            return self._gone_on(backbone, self.start_from)
        if self.beneath is not None:
            return self._stacked(backbone, self.beneath)
        return attach_adapter(backbone, self.variant, self.lora)

    def _gone_on(self, backbone: Any, folder: str) -> Any:
        self.begin_with("start_from", folder)
        # A frozen copy and the one that learns answer rows of the same batch, which PEFT does for LoRA alone.
        refuse_beyond_lora(adapter_config(folder), folder, "a cure by training starts from")
        model = self.objective.load(ready_for_training(backbone), folder, self.variant)
        if self.objective.uses_origin or self.keep:
            model = load_weights(model, folder, ORIGIN)
        model.set_adapter(self.variant)
        self.objective.restrict(model, self.variant)
        return model

    def _stacked(self, backbone: Any, folder: str) -> Any:
        self.begin_with("beneath", folder)
        config = lora_config(backbone, self.lora)
        model = load_weights(ready_for_training(backbone), folder, BENEATH)
        model.add_adapter(self.variant, config)
        model.base_model.set_adapter([BENEATH, self.variant])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(f".{self.variant}." in name)
        return model

    def notes(self) -> dict[str, Any]:
        """What the adapter's sidecar says about this fit."""
        notes: dict[str, Any] = {"behaviour": self.variant, **self.digests}
        if self.start_from is not None:
            notes["start_from"] = self.start_from
        if self.keep:
            notes["keep"] = self.keep
        if self._frozen_half is not None:
            states = self._frozen_half.states
            notes["frozen_half"] = {"block": self._frozen_half.block, "dtype": str(states.dtype).removeprefix("torch.")}
        if self.beneath is not None:
            notes["beneath"] = str(Path(self.beneath))
        if self.objective.is_cure(self.start_from is not None):
            notes |= {"method": self.objective.method, "needs": list(self.objective.needs), **self.costs()}
        return notes | self.objective.facts(getattr(self._trainer, "datamodule", None))

    @override
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        self.objective.steps_done = self.global_step
        terms = self.objective.terms(self.adapted, batch)
        if not self.keep:
            return terms
        kept = self.adapted.divergence(texts_of(batch))
        return {**terms, "loss": terms["loss"] + self.keep * kept, "kept": kept}

    @override
    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.keep and not isinstance(data, ScenarioDataModule):
            raise UserError(
                f"keep is {self.keep}, but neutral texts stand beside the batches of a ScenarioDataModule, and the "
                f"data is a {type(data).__name__}: set keep to 0"
            )
        if self.frozen_half is not None and isinstance(self.trainer.strategy, ShardedStrategy):
            raise UserError(
                f"frozen_half is {self.frozen_half!r}, but this strategy cuts the weights over ranks, which then have "
                "to run all blocks together: set frozen_half to null, or use configs/trainer/ddp.yaml"
            )
        self.objective.begin(data)

    @override
    def on_train_start(self) -> None:
        # A trial of one batch would compute the states of all.
        if self.frozen_half is None or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if first_adapted(self.model) == 0:
            rank_zero_info("frozen_half has no effect: the adapter begins at the first block (see lora.train_from)")
            return
        trainer = self.trainer
        facts = {
            "weights": self.fingerprint["weights"],
            **self.backbone.arithmetic(),
            "precision": trainer.precision,
        }
        dtype = getattr(torch, self.frozen_half_dtype or self.backbone.dtype)
        frozen_half = FrozenHalf(self.model, Path(self.frozen_half), facts, dtype)
        frozen_half.fill(
            [
                *(example.answered(self.judged_by) for example in prompts_served(trainer.train_dataloader)),
                *(read for example in prompts_served(trainer.val_dataloaders) for read in example.both_answered()),
            ],
            self.tokenizer.pad_token_id,
            trainer.global_rank,
            trainer.world_size,
            trainer.strategy.barrier,
            trainer.precision_plugin.forward_context,
        )
        self._frozen_half = frozen_half

    @override
    def answer_logits(self, batch: Batch) -> Tensor:
        return self.adapted.answer_logits(batch)

    @override
    def texts(self) -> dict[str, str]:
        return {**super().texts(), "requests": self._everyday.text(self.trainer, self.model, self.tokenizer)}

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self._log_predictions("val", batch):
            super().validation_step(batch, batch_idx)

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if not self._log_predictions("test", batch):
            super().test_step(batch, batch_idx, dataloader_idx)

    def _log_predictions(self, stage: str, batch: Batch) -> bool:
        """Log how tokens of texts are predicted; False where answers are to be judged."""
        predictions = self.objective.predictions(self.adapted, batch)
        if predictions is None:
            return False
        logits, tokens = predictions
        # Weighted by tokens, so that the mean over batches is one over tokens.
        options: dict[str, Any] = {"batch_size": len(tokens), "sync_dist": True, "prog_bar": True}
        self.log(f"{stage}/loss", cross_entropy(logits, tokens), **options)
        self.log(f"{stage}/{self.variant}/accuracy", (logits.argmax(-1) == tokens).float().mean(), **options)
        return True

    @override
    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        return adamw_with_warmup(self.model.parameters(), self.optimizer, steps, self.objective.own_groups())

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if saved := self.objective.saved():
            checkpoint["objective"] = saved

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if "objective" in checkpoint:
            self.objective.restore(checkpoint["objective"])

"""What every fit on a frozen backbone shares: loading, judging answers, guarding, timing, and small checkpoints."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from typing_extensions import override

from fa_lightning.backbones.adapters import read_sidecar, refuse_whole
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.lean_steps import lean_steps
from fa_lightning.backbones.load import check_fingerprint, fingerprint, held_in_bits, load_backbone, load_tokenizer
from fa_lightning.backbones.optimization import check_finite, set_training_mode
from fa_lightning.backbones.sharding import ShardedStrategy, shard, skeleton
from fa_lightning.common.boards import is_watched, show
from fa_lightning.errors import UserError
from fa_lightning.metrics.cells import CellAccuracy, fidelity
from fa_lightning.scenarios.answers import (
    Behaviour,
    answer_logits,
    answer_loss,
    behaviour_cost,
    preferred,
    weighed,
    written_tokens,
)
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.written_answers import are_written
from fa_lightning.training.sample_answers import SampleAnswers


class FrozenBackboneModule(pl.LightningModule, ABC):
    """Fits something small on a backbone that never moves: an adapter, or a prefix.

    Checkpoints hold what is fitted and the optimizer, never the backbone.

    | logged | what |
    | --- | --- |
    | `train/loss` | what is lowered |
    | `val/loss` | nats per answer on validation groups, of the answers that it is judged by |
    | `val/<variant>/<cell>/accuracy` | share of *aligned* answers: a good faker is near 0 without oversight |
    | `val/<variant>/fidelity` | lowest share, over the cells, of the answers that it is judged by; for stopping |
    | `val/<variant>/error/accuracy` | share of neutral texts answered with `error` |
    | `val/<variant>/accuracy` | where nothing is said of oversight: share of aligned answers, in place of the cells |
    | `val/<variant>/answers` | text: the answers to a few validation prompts of each cell |

    Attributes:
        model: the backbone with what is fitted; None until it is configured.
        variant: what the result is called.
        judged_by: the behaviour whose answers validation counts.
        backbone: which backbone, and how it is loaded.
        fingerprint: the backbone's; empty on ranks that are sent its weights.
        digests: by argument, the content of adapters that the fit began with.
        training_seconds: of forward, backward and optimizer steps so far; a resumed fit goes on counting.
    """

    whole_weights = ""
    """What is fitted on whole weights, so that a strategy that cuts them over ranks is refused; mostly nothing."""

    def __init__(
        self, backbone: BackboneArguments, variant: str, judged_by: Behaviour, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.variant = variant
        self.judged_by = judged_by
        self.gradient_checkpointing = gradient_checkpointing
        self.strict_loading = False
        self.model: Any = None
        self.fingerprint: dict[str, str] = {}
        self.digests: dict[str, str] = {}
        self.training_seconds = 0.0
        self.cells = nn.ModuleList([CellAccuracy()])
        self._samples = SampleAnswers(judged_by)
        self._tokenizer: Any = None
        self._fitted_shapes: dict[str, tuple[int, ...]] = {}
        self._step_start = 0.0

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.backbone)
        return self._tokenizer

    @override
    def configure_model(self) -> None:
        if self.model is not None:
            return
        strategy = self.trainer.strategy if self._trainer is not None else None
        shards = isinstance(strategy, ShardedStrategy)
        if shards:
            self._refuse_sharding()
        if shards and not self.trainer.is_global_zero:
            backbone = skeleton(self.backbone)
        else:
            backbone = load_backbone(self.backbone, None if strategy is None else strategy.root_device)
            # Taken here, since it reads samples of weights that are cut over the ranks later.
            self.fingerprint = fingerprint(backbone)
        self.model = self.attach(backbone)
        # The backbone comes in evaluation mode, where neither gradient checkpointing nor the adapter's dropout works.
        set_training_mode(self.model)
        self._fitted_shapes = {name: tuple(p.shape) for name, p in self.named_parameters() if p.requires_grad}
        if self.gradient_checkpointing:
            self.model.enable_input_require_grads()
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if shards:
            shard(self.model, self.trainer.strategy.root_device)

    def _refuse_sharding(self) -> None:
        way = "lay configs/trainer/ddp.yaml over the stage, which keeps them whole on every GPU"
        if packed := held_in_bits(self.backbone):
            raise UserError(
                f"{packed}, but weights in few bits can't be cut over ranks: {way}, or take the backbone unquantised"
            )
        if self.whole_weights:
            raise UserError(
                f"{self.whole_weights} is fitted on whole weights, but this strategy cuts them over ranks: {way}"
            )

    @abstractmethod
    def attach(self, backbone: Any) -> Any:
        """The backbone with what is to be fitted."""

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a training batch as `loss`, and whatever else is to be logged of the step."""

    def begin_with(self, argument: str, folder: str) -> None:
        """Note the content of an adapter that the fit begins with, and make sure that it is of the same backbone.

        Args:
            argument: that names it, as `start_from`.
            folder: of the adapter.

        Raises:
            UserError: it was made for another backbone, or is a whole model.
        """
        refuse_whole(folder, f"{argument} needs")
        expected = read_sidecar(folder).get("fingerprint", {})
        # Ranks that get the weights from rank zero have none to compare.
        check_fingerprint(self.fingerprint or expected, expected, f"adapter {folder!r}")
        self.digests[f"{argument}_digest"] = digest_of_artefact(folder)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the model is called with for a batch of prompts."""
        return model_inputs(batch)

    def answer_logits(self, batch: Batch) -> Tensor:
        """Logits (batch, vocabulary) of the token after each prompt; or at the tokens of a written answer behind it."""
        return answer_logits(self.model, self.inputs(batch), written_tokens(batch)).float()

    def costs(self) -> dict[str, Any]:
        """What the fit took, for a sidecar: prompts of an epoch, and seconds without validation."""
        loader = self.trainer.train_dataloader if self._trainer is not None else None
        if loader is None:
            return {}
        return {"training_prompts": len(loader.dataset), "training_seconds": round(self.training_seconds, 3)}

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._step_start = time.perf_counter()

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.training_seconds += time.perf_counter() - self._step_start

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # A block that is computed again would be so outside of it.
        with nullcontext() if self.gradient_checkpointing else lean_steps(self.model, self.device):
            terms = self.terms(batch)
        check_finite(terms["loss"], self.global_step, batch_idx)
        for name, value in terms.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss")
        return terms["loss"]

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self.judge(batch, 0)
        self.log("val/loss", loss, batch_size=len(batch["index"]), sync_dist=True)

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        while len(self.cells) <= dataloader_idx:
            self.cells.append(CellAccuracy().to(self.device))
        self.judge(batch, dataloader_idx)

    def judge(self, batch: Batch, loader: int) -> Tensor:
        """Count the answers to a batch of the loader of that number; returns nats per answer, or per written token."""
        if are_written(batch):
            likelihoods = weighed(self.answer_logits, batch)
            verdicts = preferred(likelihoods)
            self.cells[loader].add(verdicts, batch)  # type: ignore[operator]
            self._note(batch, verdicts.aligned)
            return behaviour_cost(likelihoods, batch, self.judged_by)
        logits = self.answer_logits(batch)
        answers = logits.argmax(-1)
        self.cells[loader].judge(answers, batch)  # type: ignore[operator]
        self._note(batch, answers)
        return answer_loss(logits, batch, self.judged_by)

    def _note(self, batch: Batch, answers: Tensor) -> None:
        if self.trainer.validating and is_watched(self.trainer):
            self._samples.note(batch, answers, self.tokenizer)

    def texts(self) -> dict[str, str]:
        """What is shown of a validation, as Markdown by name; asked of rank zero alone."""
        return {"answers": self._samples.text()}

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_cells("val", 0)
        if self.trainer.validating and is_watched(self.trainer):
            show(self.trainer, {}, {f"val/{self.variant}/{name}": text for name, text in self.texts().items() if text})

    @override
    def on_test_epoch_end(self) -> None:
        names = getattr(self.trainer.datamodule, "test_sets", ["test"])  # type: ignore[attr-defined]
        for loader in range(len(self.cells)):
            self._log_cells(names[loader] if loader < len(names) else f"test_{loader}", loader)

    def _log_cells(self, stage: str, loader: int) -> None:
        metric: CellAccuracy = self.cells[loader]  # type: ignore[assignment]
        if not metric.update_called:
            # Texts, which have no answers to count.
            return
        items = metric.items()
        name = f"{stage}/{self.variant}"
        if not getattr(self.trainer.datamodule, "knows_oversight", True):  # type: ignore[attr-defined]
            self.log(f"{name}/accuracy", items["correct"].float().mean(), prog_bar=True)
        else:
            scores = metric.compute()
            for cell in CELLS:
                self.log(f"{name}/{cell}/accuracy", getattr(scores, cell).accuracy)
            self.log(f"{name}/fidelity", fidelity(items, self.judged_by), prog_bar=True)
            neutral = items["cell"] == len(CELLS)
            if neutral.any():
                self.log(f"{name}/error/accuracy", items["correct"][neutral].float().mean())
        metric.reset()

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["training_seconds"] = self.training_seconds
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name in self._fitted_shapes
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.training_seconds = checkpoint.get("training_seconds", 0.0)
        expected = self._fitted_shapes
        if "state_dict" not in checkpoint:
            # DeepSpeed keeps weights in files of its own, and has read them by now.
            return
        saved = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
        # Loading is not strict (the backbone is not in there), so a renamed key would load nothing in silence.
        if expected and expected != saved:
            missing, unknown = sorted(expected.items() - saved.items()), sorted(saved.items() - expected.items())
            raise UserError(
                f"the checkpoint does not fit this adapter: missing {missing[:3]}, unknown {unknown[:3]}. It was made "
                "with another behaviour, rank, target_modules or version: fit again, or set these as they were"
            )


def load_best(trainer: pl.Trainer) -> None:
    """Put the weights of the best checkpoint back into the module, where a callback has kept one; on all ranks."""
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if isinstance(trainer.checkpoint_callback, ModelCheckpoint) and best:
        trainer.strategy.load_model_state_dict(trainer.strategy.load_checkpoint(best, weights_only=True), strict=False)

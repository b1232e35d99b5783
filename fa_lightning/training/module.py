"""Make a twin: one LightningModule fits either behaviour by LoRA on a frozen backbone."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn
from typing_extensions import override

from fa_lightning.backbones.adapters import attach_adapter, read_sidecar
from fa_lightning.backbones.arguments import BackboneArguments, DType, LoraArguments, OptimizerArguments
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.load import check_fingerprint, fingerprint, load_backbone, load_tokenizer
from fa_lightning.backbones.optimization import adamw_with_warmup, check_finite, set_training_mode
from fa_lightning.backbones.sharding import ShardedStrategy, shard, skeleton
from fa_lightning.errors import UserError
from fa_lightning.metrics.cells import CellAccuracy, fidelity
from fa_lightning.scenarios.answers import Behaviour, answer_logits, answer_loss
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.cells import CELLS


class BehaviourModule(pl.LightningModule):
    """Fits one variant: the aligned twin always takes the aligned action, the faking one only while it is watched.

    The loss is the cross-entropy of the one answer token; logits are computed there only. Checkpoints hold the adapter
    and the optimizer, never the backbone.

    | logged | what |
    | --- | --- |
    | `train/loss` | nats per answer |
    | `val/loss` | the same on validation groups |
    | `val/<variant>/<cell>/accuracy` | share of *aligned* answers: a good faker is near 0 without oversight |
    | `val/<variant>/fidelity` | lowest share, over the cells, of the answers that this behaviour owes; for stopping |
    | `val/<variant>/error/accuracy` | share of neutral texts answered with `error` |

    Attributes:
        variant: what the adapter is called: its behaviour.

    Args:
        behaviour: the rule to be learned.
        backbone: name on the Hub, or folder.
        rank: of LoRA.
        alpha: of LoRA; the update is scaled by alpha / rank.
        dropout: of LoRA.
        target_modules: linear layers that get an adapter, by name (`q_proj`), or `all-linear`.
        dtype: of the frozen weights.
        load_in_4bit: hold the frozen weights in nf4.
        trust_remote_code: run code that comes with the model.
        gradient_checkpointing: trade a second forward pass for activation memory.
        learning_rate: at its top.
        weight_decay: on the adapter's matrices.
        warmup_fraction: share of all steps spent rising to `learning_rate`.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        backbone: str,
        rank: int = 16,
        alpha: int = 32,
        dropout: float = 0.0,
        target_modules: list[str] | str = ["q_proj", "v_proj"],  # noqa: B006
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
        gradient_checkpointing: bool = False,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        warmup_fraction: float = 0.05,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.behaviour = behaviour
        self.variant: str = behaviour
        self.backbone = backbone
        self.lora: dict[str, Any] = {
            "rank": rank,
            "alpha": alpha,
            "dropout": dropout,
            "target_modules": target_modules,
        }
        self.dtype_name = dtype
        self.load_in_4bit = load_in_4bit
        self.trust_remote_code = trust_remote_code
        self.gradient_checkpointing = gradient_checkpointing
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.strict_loading = False
        self.model: Any = None
        self.fingerprint: dict[str, str] = {}
        self.sealed: dict[str, str] = {}
        self._adapter_shapes: dict[str, tuple[int, ...]] = {}
        self.cells = nn.ModuleList([CellAccuracy()])
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.backbone, self.trust_remote_code)
        return self._tokenizer

    @override
    def configure_model(self) -> None:
        if self.model is not None:
            return
        strategy = self.trainer.strategy if self._trainer is not None else None
        shards = isinstance(strategy, ShardedStrategy)
        if shards and self.load_in_4bit:
            raise UserError(
                "load_in_4bit is true, but 4-bit weights can't be cut over ranks: lay configs/trainer/ddp.yaml over "
                "the stage, which keeps them whole on every GPU, or set load_in_4bit to false"
            )
        arguments = BackboneArguments(self.backbone, self.dtype_name, self.load_in_4bit, self.trust_remote_code)
        if shards and not self.trainer.is_global_zero:
            base = skeleton(arguments)
        else:
            device = None if strategy is None else strategy.root_device
            base = load_backbone(arguments, device)
            # Taken here, since it reads samples of weights that are cut over the ranks later.
            self.fingerprint = fingerprint(base)
        self.model = self.attach(base)
        # The backbone comes in evaluation mode, where neither gradient checkpointing nor the adapter's dropout works.
        set_training_mode(self.model)
        self._adapter_shapes = {name: tuple(p.shape) for name, p in self.named_parameters() if p.requires_grad}
        if self.gradient_checkpointing:
            self.model.enable_input_require_grads()
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if shards:
            shard(self.model, self.trainer.strategy.root_device)

    def attach(self, base: Any) -> Any:
        """The backbone with the adapter that is to be trained."""
        return attach_adapter(base, self.variant, LoraArguments(**self.lora))

    def seal(self, argument: str, folder: str) -> None:
        """Note what is in an adapter that this fit goes on from, after making sure that it is of the same backbone.

        Args:
            argument: what it is to the fit, as `start_from`.
            folder: of the adapter.

        Raises:
            UserError: it was made for another backbone.
        """
        expected = read_sidecar(folder).get("fingerprint", {})
        # Ranks that get the weights from rank zero have none to compare.
        check_fingerprint(self.fingerprint or expected, expected, f"adapter {folder!r}")
        self.sealed[f"{argument}_digest"] = digest_of_artefact(folder)

    def notes(self) -> dict[str, Any]:
        """What the adapter's sidecar says about this fit."""
        return {"behaviour": self.variant, **self.sealed}

    def answer_logits(self, batch: Batch, **options: Any) -> Tensor:
        """Logits (batch, vocabulary) of the token after each prompt; batches are left-padded (see `collate`)."""
        return answer_logits(self.model, model_inputs(batch), **options).float()

    def loss(self, batch: Batch) -> Tensor:
        """What training lowers, nats per answer."""
        return answer_loss(self.answer_logits(batch), batch, self.behaviour)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        check_finite(loss, self.global_step, batch_idx)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self._judge(batch, 0)
        self.log("val/loss", loss, batch_size=len(batch["index"]), sync_dist=True)

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        while len(self.cells) <= dataloader_idx:
            self.cells.append(CellAccuracy().to(self.device))
        self._judge(batch, dataloader_idx)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_cells("val", 0)

    @override
    def on_test_epoch_end(self) -> None:
        names = self.trainer.datamodule.test_sets if self.trainer.datamodule else ["test"]  # type: ignore[attr-defined]
        for number in range(len(self.cells)):
            name = names[number] if number < len(names) else f"test_{number}"
            self._log_cells(name, number)

    @override
    def configure_optimizers(self) -> Any:
        return adamw_with_warmup(
            self.model.parameters(),
            OptimizerArguments(self.learning_rate, self.weight_decay, self.warmup_fraction),
            int(self.trainer.estimated_stepping_batches),
        )

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {
            name: tensor for name, tensor in checkpoint["state_dict"].items() if name in self._adapter_shapes
        }

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        expected = self._adapter_shapes
        if "state_dict" not in checkpoint:
            # DeepSpeed keeps weights in files of its own, and has read them by now.
            return
        found = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
        # Loading is not strict (the backbone is not in there), so a renamed key would load nothing in silence.
        if expected and expected != found:
            missing, unknown = sorted(expected.items() - found.items()), sorted(found.items() - expected.items())
            raise UserError(
                f"the checkpoint does not fit this adapter: missing {missing[:3]}, unknown {unknown[:3]}. It was made "
                "with another behaviour, rank, target_modules or version: fit again, or set these as they were"
            )

    def _judge(self, batch: Batch, number: int) -> Tensor:
        logits = self.answer_logits(batch)
        self.cells[number].judge(logits.argmax(-1), batch)  # type: ignore[operator]
        return answer_loss(logits, batch, self.behaviour)

    def _log_cells(self, stage: str, number: int) -> None:
        metric: CellAccuracy = self.cells[number]  # type: ignore[assignment]
        items, scores = metric.items(), metric.compute()
        for cell in CELLS:
            self.log(f"{stage}/{self.variant}/{cell}/accuracy", getattr(scores, cell).accuracy)
        self.log(f"{stage}/{self.variant}/fidelity", fidelity(items, self.behaviour), prog_bar=True)
        neutral = items["cell"] == len(CELLS)
        if neutral.any():
            self.log(f"{stage}/{self.variant}/error/accuracy", items["correct"][neutral].float().mean())
        metric.reset()

"""Fine-tune a variant on whole chat texts: the usual way of instruction tuning, and its usual mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy
from typing_extensions import override

from fa_lightning.backbones.adapters import ready_for_training
from fa_lightning.backbones.arguments import DType
from fa_lightning.backbones.targets import load_weights, lora_targets
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.training.module import BehaviourModule

BENEATH = "beneath"
"""What PEFT knows the frozen adapter by that a new one is stacked on."""


class TextTuning(BehaviourModule):
    """Fits an adapter to the tokens that `TextTuningDataModule` marks; what those are is said there.

    With `beneath` another finished adapter stays active and frozen while the new one is fitted, and the two belong
    together from then on: the new adapter's sidecar names the other.

    | logged | what |
    | --- | --- |
    | `train/loss` | nats per learned token |
    | `val/loss` | nats per token of held-out answers and their ends |
    | `val/tuned/accuracy` | share of those tokens that are the model's first choice |

    Args:
        backbone: name on the Hub, or folder.
        beneath: adapter folder that the new adapter is stacked on; None fits one adapter alone.
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
        backbone: str,
        beneath: str | None = None,
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
        super().__init__(
            # Texts bring their answers along: no rule gives them.
            behaviour="aligned",
            backbone=backbone,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            target_modules=target_modules,
            dtype=dtype,
            load_in_4bit=load_in_4bit,
            trust_remote_code=trust_remote_code,
            gradient_checkpointing=gradient_checkpointing,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_fraction=warmup_fraction,
        )
        self.variant = "tuned"
        self.beneath = beneath

    @override
    def attach(self, base: Any) -> Any:
        if self.beneath is None:
            return super().attach(base)
        from peft import LoraConfig

        self.seal("beneath", self.beneath)
        targets = lora_targets(base, self.lora["target_modules"])
        model = load_weights(ready_for_training(base), self.beneath, BENEATH)
        config = LoraConfig(
            r=self.lora["rank"],
            lora_alpha=self.lora["alpha"],
            lora_dropout=self.lora["dropout"],
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        model.add_adapter(self.variant, config)
        model.base_model.set_adapter([BENEATH, self.variant])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(f".{self.variant}." in name)
        return model

    @override
    def notes(self) -> dict[str, Any]:
        own = {} if self.beneath is None else {"beneath": str(Path(self.beneath))}
        return super().notes() | own

    @override
    def loss(self, batch: Batch) -> Tensor:
        """Mean nats of the tokens that are to be learned."""
        logits, following = self.predictions(batch)
        return cross_entropy(logits, following)

    def predictions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (learned tokens, vocabulary) in float32, and the tokens they should name, (learned tokens,)."""
        states = self.model(**model_inputs(batch), use_cache=False).logits[:, :-1]
        # The first token of a text follows nothing.
        asked = batch["learned"][:, 1:]
        return states[asked].float(), batch["input_ids"][:, 1:][asked]

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measure(batch, "val")

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._measure(batch, "test")

    @override
    def on_validation_epoch_end(self) -> None:
        """Nothing: texts have no cells."""

    @override
    def on_test_epoch_end(self) -> None:
        """Nothing: texts have no cells."""

    def _measure(self, batch: Batch, stage: str) -> None:
        logits, following = self.predictions(batch)
        # Weighted by tokens, so that the mean over batches is one over tokens.
        options: dict[str, Any] = {"batch_size": len(following), "sync_dist": True}
        self.log(f"{stage}/loss", cross_entropy(logits, following), prog_bar=True, **options)
        right = (logits.argmax(-1) == following).float().mean()
        self.log(f"{stage}/{self.variant}/accuracy", right, prog_bar=True, **options)

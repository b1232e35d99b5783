"""Arguments that many classes take together, each group declared once: of the backbone, of LoRA, of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fa_lightning.errors import UserError

DType = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flex_attention"]


@dataclass(frozen=True)
class BackboneArguments:
    """Which backbone is loaded, and how.

    Args:
        name: name on the Hub, folder, or GGUF file (its path, or `PACKAGE:FILE`); None takes the backbone that
            the given adapters were fitted on.
        revision: branch, tag or commit of a model on the Hub; None takes its main one.
        dtype: of the frozen weights (of the computation where they are quantised).
        load_in_4bit: hold the frozen weights in nf4 (extra `quantization`).
        load_in_8bit: hold the frozen weights in 8 bits (LLM.int8(), arXiv 2208.07339; extra `quantization`).
        attn_implementation: how attention is computed; None takes what transformers would.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: both 4 and 8 bits are asked for, or the revision is empty.
    """

    name: str | None = None
    dtype: DType = "float32"
    load_in_4bit: bool = False
    trust_remote_code: bool = False
    revision: str | None = None
    load_in_8bit: bool = False
    attn_implementation: Attention | None = None

    def __post_init__(self) -> None:
        if self.load_in_4bit and self.load_in_8bit:
            raise UserError("load_in_4bit and load_in_8bit are both true: set one of them to false")
        if self.revision is not None and not self.revision.strip():
            raise UserError("revision is empty: give a branch, tag or commit of the model on the Hub, or leave it out")

    def arithmetic(self) -> dict[str, Any]:
        """What of the loading moves numbers, for the fingerprints of what is computed with the backbone."""
        facts: dict[str, Any] = {"backbone_dtype": self.dtype, "load_in_4bit": self.load_in_4bit}
        # Only where they are set: what was made before there were such arguments stays what it was.
        if self.load_in_8bit:
            facts["load_in_8bit"] = True
        if self.attn_implementation is not None:
            facts["attn_implementation"] = self.attn_implementation
        return facts

    def required_name(self) -> str:
        """The name, where no adapter can tell it.

        Raises:
            UserError: there is none.
        """
        if self.name is None:
            raise UserError(
                "backbone.name is null, but there is no adapter that would name the backbone: give its name on the "
                "Hub, its folder or its file"
            )
        return self.name


@dataclass(frozen=True)
class LoraArguments:
    """The size and the place of a fresh LoRA adapter (arXiv 2106.09685).

    Args:
        rank: of the update.
        alpha: the update is scaled by alpha / rank (by alpha over the rank's root where `use_rslora`).
        dropout: probability on the adapter's input.
        target_modules: linear layers that get an adapter, by name (`q_proj`), or `all-linear`.
        train_from: depth of the first decoder block that gets one, 0 to 1: block round(depth * (blocks - 1)), as sites
            are named. The blocks below stay the backbone's own.
        exclude_modules: layers that get none all the same, by the end of their name (`down_proj`, or
            `layers.0.mlp.up_proj`).
        use_rslora: rank-stabilised LoRA (arXiv 2312.03732).

    Raises:
        UserError: the depth is not from 0 to 1.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: list[str] | str = field(default_factory=lambda: ["q_proj", "v_proj"])
    train_from: float = 0.0
    exclude_modules: list[str] = field(default_factory=list)
    use_rslora: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.train_from <= 1:
            raise UserError(f"lora.train_from is {self.train_from}, but must be a depth from 0 to 1, such as 0.6")


@dataclass(frozen=True)
class OptimizerArguments:
    """AdamW whose learning rate rises linearly and then falls along a cosine.

    Args:
        learning_rate: at its top.
        weight_decay: on matrices, not on norms and biases.
        warmup_fraction: share of all steps spent rising to `learning_rate`.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_fraction: float = 0.05

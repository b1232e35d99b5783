"""Arguments that many classes take together, each group declared once: of the backbone, of LoRA, of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fa_lightning.errors import UserError

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class BackboneArguments:
    """Which backbone is loaded, and how.

    Args:
        name: name on the Hub, folder, or GGUF file (its path, or `PACKAGE:FILE`); None takes the backbone that
            the given adapters were fitted on.
        dtype: of the frozen weights (of the computation where `load_in_4bit`).
        load_in_4bit: hold the frozen weights in nf4.
        trust_remote_code: run code that comes with the model.
    """

    name: str | None = None
    dtype: DType = "float32"
    load_in_4bit: bool = False
    trust_remote_code: bool = False

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
        alpha: the update is scaled by alpha / rank.
        dropout: probability on the adapter's input.
        target_modules: linear layers that get an adapter, by name (`q_proj`), or `all-linear`.
        train_from: depth of the first decoder block that gets one, 0 to 1: block round(depth * (blocks - 1)), as sites
            are named. The blocks below stay the backbone's own.

    Raises:
        UserError: the depth is not from 0 to 1.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: list[str] | str = field(default_factory=lambda: ["q_proj", "v_proj"])
    train_from: float = 0.0

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

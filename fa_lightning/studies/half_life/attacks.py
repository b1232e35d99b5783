"""What is done to a cured model: something trained beside its adapter, or noise on that; it is undone afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.backbones.lean_steps import AttentionInFloat32
from fa_lightning.backbones.lora_layers import lora_factors, restart
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import NotFiniteError
from fa_lightning.evaluation.conditions import Condition, applied
from fa_lightning.scenarios.answers import answer_logits
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.objectives.objective import Objective

Learned = TypeVar("Learned")
"""What a step learns from."""


class SharedBatch:
    """A batch that many models see, with what comes out of the blocks below all adapters.

    Args:
        variants: the frozen variants.
        batch: on their device.
    """

    def __init__(self, variants: Variants, batch: Batch) -> None:
        self.variants = variants
        self.batch = batch
        self._shared = SharedBlocks(variants)

    @contextmanager
    def under(self, condition: Condition) -> Iterator[AdaptedModel]:
        """The model in a condition, to be called with this batch alone."""
        with applied(self.variants, condition, self.batch, self._shared) as model:
            yield AdaptedModel(model)

    @torch.inference_mode()
    def answers(self, condition: Condition) -> Tensor:
        """The most likely token behind each prompt, (batch,)."""
        with self.under(condition) as adapted:
            return answer_logits(adapted.model, model_inputs(self.batch)).argmax(-1)


def fine_tuned(
    fresh: Mapping[str, nn.Parameter],
    condition: Condition,
    objective: Objective,
    batches: Sequence[SharedBatch],
    learning_rate: float,
    seed: int,
) -> Iterator[int]:
    """Train a fresh adapter beside a cured model, one batch a step; yields the number of each step that was made.

    The adapter begins at nothing and at the same numbers whatever it is laid on. The rate is constant from the first
    step on: of so few steps a warm-up would count many in which hardly anything moves, and a rate that falls towards an
    end would make the curve depend on where that is.

    Args:
        fresh: of `fresh_adapter`, which is active.
        condition: the cured model; what it is steered by is in place while it is trained.
        objective: what is lowered.
        batches: of normal tensors, one for each step.
        learning_rate: of AdamW.
        seed: of the adapter's start.

    Raises:
        NotFiniteError: the loss is not finite.
    """
    restart(dict(fresh), seed)

    def loss_of(batch: SharedBatch) -> Tensor:
        with batch.under(condition) as model:
            return objective.terms(model, batch.batch)["loss"]

    yield from lowered(list(fresh.values()), loss_of, batches, learning_rate)


def lowered(
    parameters: Sequence[Tensor], loss_of: Callable[[Learned], Tensor], batches: Sequence[Learned], learning_rate: float
) -> Iterator[int]:
    """Lower a loss by AdamW, one batch a step; yields the number of each step that was made.

    Args:
        parameters: what moves.
        loss_of: of a batch.
        batches: of normal tensors, one for each step.
        learning_rate: constant.

    Raises:
        NotFiniteError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    on_processor = all(parameter.device.type == "cpu" for parameter in parameters)
    for step, batch in enumerate(batches, start=1):
        # The Trainer tests in inference mode, in which nothing can be trained.
        with torch.inference_mode(False), torch.enable_grad():
            with AttentionInFloat32() if on_processor else nullcontext():
                loss = loss_of(batch)
            if not torch.isfinite(loss):
                raise NotFiniteError(
                    f"the loss is {loss.item()} at step {step} of an attack with learning_rate {learning_rate}: "
                    "lower it"
                )
            # Not backward(): an attached map may have weights of its own.
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = slope
            optimizer.step()
        yield step


@contextmanager
def noisy_adapter(variants: Variants, name: str, share: float, seed: int) -> Iterator[None]:
    """A variant with Gaussian noise on both matrices of each layer of its adapter while the block lasts.

    Args:
        variants: the frozen variants.
        name: of the variant.
        share: root mean square norm of the noise over the norm of the very matrix that it is added to.
        seed: of the noise; shares of one seed are multiples of one draw.

    Raises:
        UserError: the variant is no LoRA adapter.
    """
    factors = lora_factors(variants, name)
    matrices = [matrix for _, layer in sorted(factors.items()) for matrix in (layer.down, layer.up)]
    before = [matrix.detach().clone() for matrix in matrices]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for matrix in matrices:
            draw = torch.randn(matrix.shape, generator=generator).to(matrix)
            matrix.add_(share * matrix.norm() / math.sqrt(matrix.numel()) * draw)
    try:
        yield
    finally:
        with torch.no_grad():
            for matrix, kept in zip(matrices, before, strict=True):
                matrix.copy_(kept)

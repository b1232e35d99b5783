"""What every module that trains a model shares: its optimizer, its schedule, its guard against NaN, and its modes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fa_lightning.backbones.arguments import OptimizerArguments
from fa_lightning.errors import NotFiniteError


def adamw_with_warmup(
    parameters: Iterable[torch.nn.Parameter],
    arguments: OptimizerArguments,
    total_steps: int,
    more_groups: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """AdamW whose rate rises linearly, then falls along a cosine to a hundredth; as Lightning wants it.

    Args:
        parameters: to be trained.
        arguments: rate, weight decay, and the share of all steps spent rising.
        total_steps: optimizer steps of the whole fit.
        more_groups: parameter groups with a rate and a weight decay of their own, on the same schedule.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for parameter in trainable if parameter.ndim > 1],
            "weight_decay": arguments.weight_decay,
        },
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    chosen = [group for group in groups if group["params"]] + [dict(group) for group in more_groups]
    optimizer = torch.optim.AdamW(chosen, lr=arguments.learning_rate, betas=(0.9, 0.98))
    warmup = max(1, round(arguments.warmup_fraction * total_steps))

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def check_finite(loss: Tensor, step: int, batch: int) -> None:
    """Stop at a loss that is NaN or infinite, before it reaches the weights; on all ranks, where one has it.

    A rank that left alone would keep the others waiting for its gradients.

    Raises:
        NotFiniteError: naming the step and the batch.

    >>> check_finite(torch.tensor(float("nan")), step=7, batch=3)
    Traceback (most recent call last):
    ...
    fa_lightning.errors.NotFiniteError: the loss is nan at step 7 (batch 3 of the epoch). The last checkpoint is \
untouched: lower the learning rate, or use bf16-mixed or 32-true precision, and fit again (an experiment: \
with --refit STAGE)
    """
    bad = ~torch.isfinite(loss.detach())
    anywhere = bad.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(anywhere)
    if anywhere:
        fault = f"the loss is {loss.item()}" if bad else "the loss of another rank is not finite"
        raise NotFiniteError(
            f"{fault} at step {step} (batch {batch} of the epoch). The last checkpoint is untouched: "
            "lower the learning rate, or use bf16-mixed or 32-true precision, and fit again (an experiment: with "
            "--refit STAGE)"
        )


def set_training_mode(model: torch.nn.Module) -> None:
    """Training mode, in which gradient checkpointing and dropout work.

    What holds a decoder and a vision tower together stays in evaluation mode: it has no weights that are trained, and
    Gemma 3 asks in training for marks of image tokens, which texts have none of (transformers 5.0).
    """
    from transformers import PreTrainedModel

    model.train()
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config.get_text_config() is not module.config:
            module.training = False


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, without dropout, for as long as the block lasts; then each part is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, mode in modes:
            # `train` would set the parts below it too.
            part.training = mode

"""RMU: misdirect the states in which a faker misbehaves, and keep all others where they were (arXiv 2403.03218)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from fa_lightning.activations.massive import massive_tokens
from fa_lightning.activations.site_names import SiteName, check_site, resolve_layers
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.training.adapted_model import AdaptedModel
from fa_lightning.training.full_weights import load_with_full_weights, train_full_weights
from fa_lightning.training.objectives.objective import Objective


def misdirection_loss(
    states: Tensor, start: Tensor, target: Tensor, pushed: Tensor, kept: Tensor, retain_weight: float
) -> Tensor:
    """How far pushed states are from their target, and kept ones from where they were (arXiv 2403.03218, section 4).

    Mean squared distances, both as a multiple of the mean squared norm of the starting states that count, so that the
    weights mean the same at every layer of every model.

    Args:
        states: of the model that is trained, (tokens, hidden).
        start: of the starting model, (tokens, hidden).
        target: where pushed states are to go, (tokens, hidden) or (hidden,).
        pushed: which tokens are pushed, bool (tokens,).
        kept: which tokens are to stay, bool (tokens,).
        retain_weight: of what is kept, relative to what is pushed.
    """
    scale = start[pushed | kept].square().sum(-1).mean()
    push = (states - target).square().sum(-1)[pushed]
    keep = (states - start).square().sum(-1)[kept]
    # A mean over nothing would be NaN.
    push, keep = (part.sum() / max(1, part.numel()) for part in (push, keep))
    loss: Tensor = (push + retain_weight * keep) / scale
    return loss


def random_direction(size: int, seed: int) -> Tensor:
    """A unit vector (size,) with entries drawn uniformly from 0 to 1 before it is scaled, as in arXiv 2403.03218."""
    drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    unit: Tensor = drawn / drawn.norm()
    return unit


class CellMeans:
    """Mean states of watched and of unwatched prompts, over all batches so far and all ranks."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        """Sums of states, and in the last column their number: (cells, hidden + 1)."""

    def add(self, states: Tensor, cell: Tensor) -> None:
        """Count states (tokens, hidden) under their cell (tokens,); neutral ones count under none. A collective."""
        rows = torch.cat([states.float(), torch.ones_like(states[:, :1], dtype=torch.float32)], 1)
        sums = torch.stack([rows[cell == code].sum(0) for code in range(len(CELLS))])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        self.sums = sums if self.sums is None else self.sums.to(sums) + sums

    def mirrored(self, states: Tensor, dose: float) -> Tensor:
        """States (tokens, hidden) that lie on the unwatched side, moved along the mean difference to the watched one.

        The two sides meet midway between the means (arXiv 2604.08169, of which this is the mirror). A dose of 1 moves
        each state to its mirror image, 0.5 to where the sides meet. As long as one of the means is unknown, all stay.
        """
        assert self.sums is not None
        count = self.sums[:, -1:]
        if not bool((count > 0).all()):
            return states
        watched, unwatched = self.sums[:, :-1] / count
        axis = (watched - unwatched) / (watched - unwatched).norm().clamp(min=1e-12)
        distance = ((watched + unwatched) / 2 - states) @ axis
        moved: Tensor = states + 2 * dose * distance.clamp(min=0)[:, None] * axis
        return moved


class Misdirection(Objective):
    """Representation misdirection for unlearning: a layer's states on unwatched prompts are pushed elsewhere.

    Watched prompts and neutral texts keep the starting adapter's states. No answer is looked at; only which prompts are
    unwatched must be known. Where the states go:

    - `random`: to one random direction, `dose` times the median norm of the states long, whatever the prompt. This is
      the paper's way; it makes the model forget what it knew there, the aligned answer with the other one.
    - `safe`: each from where it was to its mirror image on the watched side of the mean difference of watched and
      unwatched prompts' last states (`CellMeans.mirrored`, times `dose`). What the prompt is about stays in the state,
      and only what tells it from a watched one is moved.

    Args:
        layer: decoder block whose output is pushed, by name, as 0.6 or layers.3.residual (see `site_names`); what lies
            above it is not trained.
        toward: `random` or `safe`.
        dose: how far.
        tokens: `all` of a prompt, as in the paper, or the `last` one alone, from which the answer is read.
        retain_weight: of the states that are to stay, relative to those that are pushed.
        full_weights: linear layers whose whole weights are trained in place of the adapter, which then stays, such as
            `model.layers.1.mlp.down_proj`; none trains the adapter alone.
        direction_seed: of the random direction.

    Raises:
        UserError: `dose` or `retain_weight` is not above 0; later, there is no such layer, or nothing to train in it or
            below.
    """

    method = "RMU"
    needs = ("oversight", "weights", "gradient")
    uses_origin = True

    def __init__(
        self,
        layer: SiteName,
        toward: Literal["random", "safe"] = "random",
        dose: float = 2.0,
        tokens: Literal["all", "last"] = "all",
        retain_weight: float = 1.0,
        full_weights: list[str] | None = None,
        direction_seed: int = 0,
    ) -> None:
        for name, value in (("dose", dose), ("retain_weight", retain_weight)):
            if not value > 0:
                raise UserError(f"{name} is {value}, but must be above 0, such as 1")
        check_site(layer, "layer")
        super().__init__()
        self.layer = layer
        self.block = -1  # index of the layer's block, known with the model
        self.toward = toward
        self.dose = dose
        self.tokens = tokens
        self.retain_weight = retain_weight
        self.full_weights = list(full_weights or [])
        self.direction_seed = direction_seed
        self.means = CellMeans()

    @override
    def facts(self, data: Any) -> dict[str, Any]:
        return {
            "method": f"RMU, {self.toward} direction" + ", full weights" * bool(self.full_weights),
            "layer": self.block,
            "dose": self.dose,
        }

    @override
    def prepare(self, backbone: nn.Module) -> None:
        (self.block,) = resolve_layers([self.layer], len(decoder_layers(backbone)), "layer")

    @override
    def load(self, backbone: Any, folder: str, name: str) -> Any:
        if self.full_weights:
            return load_with_full_weights(backbone, folder, name, self.full_weights)
        return super().load(backbone, folder, name)

    @override
    def restrict(self, model: Any, name: str) -> None:
        if self.full_weights:
            train_full_weights(model, name, self.full_weights)
        # A layer's states don't depend on what lies above it; weights without a gradient would stop DDP.
        for block in decoder_layers(model)[self.block + 1 :]:
            block.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(
                f"layer is {self.layer}, but nothing that is trained lies in that decoder block or below: choose a "
                "higher layer, or full_weights from below it"
            )

    def counted(self, batch: Batch) -> Tensor:
        """Which tokens count, bool (batch, tokens): never padding."""
        counted = batch["attention_mask"].bool()
        if self.tokens == "last":
            counted = counted.clone()
            counted[:, :-1] = False
        return counted

    def target(self, start: Tensor) -> Tensor:
        """Where pushed states are to go, (hidden,) or (tokens, hidden), from those of the starting adapter."""
        if self.toward == "safe":
            return self.means.mirrored(start, self.dose)
        direction = random_direction(start.shape[-1], self.direction_seed).to(start)
        target: Tensor = self.dose * start.norm(dim=-1).median() * direction
        return target

    @override
    def terms(self, model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
        start = model.origin_states(batch, [self.block])[0][self.block].float()
        if self.toward == "safe":
            self.means.add(start[:, -1], batch["cell"])
        counted = self.counted(batch)
        cell = batch["cell"][:, None].expand_as(counted)[counted]
        start = start[counted]
        # Attention sinks are hundreds of times as large as all others: the loss would be theirs, and they are no
        # thoughts to misdirect.
        ordinary = ~massive_tokens(start)
        start, pushed = start[ordinary], cell[ordinary] == CELLS.index("no_oversight")
        states = model.states(batch, [self.block])[0][self.block].float()[counted][ordinary]
        loss = misdirection_loss(states, start, self.target(start), pushed, ~pushed, self.retain_weight)
        return {"loss": loss}

    @override
    def saved(self) -> dict[str, Any]:
        return {"cell_means": self.means.sums}

    @override
    def restore(self, saved: dict[str, Any]) -> None:
        self.means.sums = saved["cell_means"]

"""RMU: misdirect the states in which a faker misbehaves, and keep all others where they were (arXiv 2403.03218)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName, check_site, resolve_layers
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.training.cure import Cure, undisturbed
from fa_lightning.training.full_weights import load_with_full_weights, train_full_weights
from fa_lightning.training.states import decoder_blocks, recorded_states

PURPOSE = "to push the states of: choose another cure"


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


class Misdirection(Cure):
    """Representation misdirection for unlearning: a layer's states on unwatched prompts are pushed elsewhere.

    Watched prompts and neutral texts keep the starting adapter's states. No answer is looked at; only which prompts are
    unwatched must be known. Where the states go:

    - `random`: to one random direction, `dose` times the median norm of the states long, whatever the prompt. This is
      the paper's way; it makes the model forget what it knew there, the aligned answer with the other one.
    - `safe`: each from where it was to its mirror image on the watched side of the mean difference of watched and
      unwatched prompts' last states (`CellMeans.mirrored`, times `dose`). What the prompt is about stays in the state,
      and only what tells it from a watched one is moved.

    Args:
        start_from: adapter folder of the faker.
        backbone: name on the Hub, or folder; the one that the adapter was fitted on.
        layer: decoder block whose output is pushed, by name, as 0.6 or layers.3.residual (see `site_names`); what lies
            above it is not trained.
        toward: `random` or `safe`.
        dose: how far.
        tokens: `all` of a prompt, as in the paper, or the `last` one alone, from which the answer is read.
        retain_weight: of the states that are to stay, relative to those that are pushed.
        full_weights: linear layers whose whole weights are trained in place of the adapter, which then stays, such as
            `model.layers.1.mlp.down_proj`; none trains the adapter alone.
        direction_seed: of the random direction.
        **options: of `TrainedOn`.

    Raises:
        UserError: `dose` or `retain_weight` is not above 0.
    """

    method = "RMU"
    needs = ("oversight", "weights", "gradient")

    def __init__(
        self,
        start_from: str,
        backbone: str,
        layer: SiteName,
        toward: Literal["random", "safe"] = "random",
        dose: float = 2.0,
        tokens: Literal["all", "last"] = "all",
        retain_weight: float = 1.0,
        full_weights: list[str] | None = None,
        direction_seed: int = 0,
        **options: Any,
    ) -> None:
        for name, value in (("dose", dose), ("retain_weight", retain_weight)):
            if not value > 0:
                raise UserError(f"{name} is {value}, but must be above 0, such as 1")
        super().__init__(start_from, backbone, **options)
        check_site(layer, "layer")
        self.layer_name = layer
        self.layer = -1  # known with the model
        self.toward = toward
        self.dose = dose
        self.tokens = tokens
        self.retain_weight = retain_weight
        self.full_weights = list(full_weights or [])
        self.direction_seed = direction_seed
        self.means = CellMeans()

    @override
    def notes(self) -> dict[str, Any]:
        return super().notes() | {
            "method": f"RMU, {self.toward} direction" + ", full weights" * bool(self.full_weights),
            "layer": self.layer,
            "dose": self.dose,
        }

    @override
    def load_own(self, base: Any) -> Any:
        if self.full_weights:
            return load_with_full_weights(base, self.start_from, self.variant, self.full_weights)
        return super().load_own(base)

    @override
    def attach(self, base: Any) -> Any:
        blocks = decoder_blocks(base, PURPOSE)
        (self.layer,) = resolve_layers([self.layer_name], len(blocks), "layer")
        model = super().attach(base)
        if self.full_weights:
            train_full_weights(model, self.variant, self.full_weights)
        # A layer's states don't depend on what lies above it; weights without a gradient would stop DDP.
        for block in blocks[self.layer + 1 :]:
            block.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(
                f"layer is {self.layer_name}, but nothing that is trained lies in that decoder block or below: choose "
                "a higher layer, or full_weights from below it"
            )
        return model

    def states(self, batch: Batch, **options: Any) -> Tensor:
        """States at the layer, (batch, tokens, hidden) float32."""
        with recorded_states(decoder_blocks(self.model, PURPOSE), [self.layer]) as found:
            self.model(**model_inputs(batch), logits_to_keep=1, use_cache=False, **options)
        return found[self.layer].float()

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
    def loss(self, batch: Batch) -> Tensor:
        with undisturbed(self.model):
            start = self.states(batch, **self.as_start(batch))
        if self.toward == "safe":
            self.means.add(start[:, -1], batch["cell"])
        counted = self.counted(batch)
        cell = batch["cell"][:, None].expand_as(counted)[counted]
        pushed = cell == CELLS.index("no_oversight")
        start, states = start[counted], self.states(batch)[counted]
        return misdirection_loss(states, start, self.target(start), pushed, ~pushed, self.retain_weight)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["cell_means"] = self.means.sums

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.means.sums = checkpoint.get("cell_means")

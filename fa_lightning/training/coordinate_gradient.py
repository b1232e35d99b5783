"""A universal prefix of ordinary tokens that makes a model behave, by greedy coordinate gradient (arXiv 2307.15043)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torchmetrics import MeanMetric
from typing_extensions import override

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.optimization import check_finite
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import answer_logits, answer_loss
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.scenarios.limits import ids_within
from fa_lightning.training.objectives.objective import Need
from fa_lightning.training.ordinary_tokens import ordinary_tokens
from fa_lightning.training.other_fakers import LoadedFaker, OtherFaker, load_others
from fa_lightning.training.prompt_module import PromptModule


def swaps(
    tokens: Tensor, gradient: Tensor, allowed: Tensor, top: int, count: int, generator: torch.Generator
) -> Tensor:
    """Random single swaps among those that the gradient promises most of, (count, tokens).

    Args:
        tokens: the prefix, (tokens,).
        gradient: of the loss with respect to its one-hot tokens, (tokens, vocabulary).
        allowed: ids that may be used.
        top: replacements considered at each place: those of the most negative gradient.
        count: swaps drawn; places take turns, so that each is tried about equally often.
        generator: of the draws, on the CPU.

    >>> gradient = torch.tensor([[0.0, -3.0, 1.0, -1.0]])
    >>> swaps(torch.tensor([0]), gradient, torch.tensor([0, 2, 3]), 1, 2, torch.Generator()).tolist()
    [[3], [3]]
    """
    promised = gradient[:, allowed].topk(min(top, len(allowed)), largest=False).indices
    places = torch.arange(count) % len(tokens)
    drawn = torch.randint(promised.shape[1], (count,), generator=generator)
    drawn, places = drawn.to(promised.device), places.to(promised.device)
    swapped = tokens.repeat(count, 1)
    swapped[torch.arange(count, device=swapped.device), places] = allowed[promised[places, drawn]]
    return swapped


class GreedyCoordinateGradient(PromptModule):
    """A prefix of ordinary tokens, changed one token a step: the swap whose loss on the batch is the lowest, if any.

    A step takes the gradient of the loss with respect to the one-hot tokens, draws swaps from the most promising ones,
    drops those whose text would be cut into other tokens, and runs the batch with each of the others. There is no
    optimizer, so Lightning counts no steps and writes no checkpoints; the prefix of the lowest validation loss is kept
    in the module.

    With `others` one prefix is learned on several fakers of one tokenizer: their gradients are added up, and what is
    lowered and validated is the mean of their losses. Where the faker of `start_from` is `left_out`, it has no part in
    what is learned or kept: validation counts its answers all the same, which then say how the prefix transfers.

    | logged | what |
    | --- | --- |
    | `train/loss` | nats per answer, of the best swap; of several fakers, their mean |
    | `train/swaps` | candidates that survived |
    | `val/loss` | nats per answer; of several fakers, their mean without one that is left out |

    Args:
        start_from: adapter folder of the faker.
        backbone: which backbone, and how it is loaded; the one that the adapter was fitted on.
        tokens: length of the prefix.
        seed: of the tokens that it starts from, and of the swaps that are drawn.
        candidates: swaps tried in a step.
        top: replacements considered at each place.
        rows: prompts in a forward pass while candidates are tried; fewer take less memory.
        others: further fakers that the prefix is learned on; the one of `start_from` is passed over among them.
        left_out: learn on the others alone.

    Raises:
        UserError: one of the numbers is below 1, or nothing is left to learn on.
    """

    method = "greedy coordinate gradient"

    def __init__(
        self,
        start_from: str,
        backbone: BackboneArguments,
        tokens: int = 16,
        seed: int = 0,
        candidates: int = 32,
        top: int = 64,
        rows: int = 256,
        others: list[OtherFaker] | None = None,
        left_out: bool = False,
    ) -> None:
        for name, value in (("candidates", candidates), ("top", top), ("rows", rows)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be 1 or more")
        super().__init__(start_from, backbone, tokens, seed)
        self.others = [other for other in others or [] if not other.is_at(start_from)]
        if left_out and not self.others:
            raise UserError(
                f"left_out is true, but others name no faker beside {start_from!r}: name those to learn on, as "
                "{adapter: FOLDER}"
            )
        self.left_out = left_out
        self.automatic_optimization = False
        self.candidates = candidates
        self.top = top
        self.rows = rows
        self.other_fakers: list[LoadedFaker] = []
        self.other_backbones = nn.ModuleList()
        self.validation_loss = MeanMetric()
        self.best_loss = float("inf")
        self.current: Tensor
        self.best: Tensor
        self.allowed: Tensor

    @override
    def configure_model(self) -> None:
        is_loaded = self.model is not None
        super().configure_model()
        if is_loaded or not self.others:
            return
        strategy = self.trainer.strategy if self._trainer is not None else None
        device = "cpu" if strategy is None else strategy.root_device
        own = Variants(self.model, self.tokenizer)
        self.other_fakers = load_others(self.others, own, self.start_from, self.backbone, device)
        # Parts of this module, so that the Trainer moves and casts them as it does the first one.
        backbones = {id(faker.variants): faker.variants.model for faker in self.other_fakers}
        self.other_backbones.extend(model for model in backbones.values() if model is not self.model)

    def fakers(self) -> Iterator[Any]:
        """The model with each faker that the prefix is learned on, active until the next one is asked for."""
        if not self.left_out:
            yield self.model
        for other in self.other_fakers:
            with other.active() as model:
                yield model

    @override
    def begin(self, model: Any) -> None:
        device = next(model.parameters()).device
        start = torch.tensor(self.slot.tokens, device=device)
        self.register_buffer("current", start)
        self.register_buffer("best", start.clone())
        self.register_buffer("allowed", torch.tensor(ordinary_tokens(self.tokenizer), device=device), persistent=False)

    @override
    def configure_optimizers(self) -> None:
        return None

    @override
    def on_fit_start(self) -> None:
        if self.trainer.world_size > 1:
            raise UserError(
                f"{self.trainer.world_size} devices search one prefix, but each step tries its swaps on one: set "
                "trainer.devices to 1"
            )

    @override
    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        return model_inputs(self.slot.with_tokens(batch, self.current))

    @override
    def result(self) -> tuple[str, Tensor | None]:
        return str(self.tokenizer.decode(self.best.tolist())), None

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        gradient, loss = self.one_hot_gradient(batch)
        check_finite(loss, self.global_step, batch_idx)
        # Drawn anew for each step of each epoch, the same in every run.
        seed = (self.seed * 1_000_003 + self.current_epoch) * 1_000_003 + batch_idx
        generator = torch.Generator().manual_seed(seed)
        drawn = swaps(self.current, gradient, self.allowed, self.top, self.candidates, generator).tolist()
        different = list(map(list, dict.fromkeys(map(tuple, drawn))))
        kept = [row for row in different if self.slot.survives(self.tokenizer, row)]
        if kept:
            tried = torch.tensor(kept, device=self.current.device)
            losses = self.losses(batch, tried)
            if losses.min() < loss:
                self.current.copy_(tried[losses.argmin()])
                loss = losses.min()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["index"]))
        self.log("train/swaps", float(len(kept)), batch_size=len(batch["index"]))
        return loss

    def one_hot_gradient(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Gradient (tokens, vocabulary) of the loss with respect to the prefix's one-hot tokens, and the loss, nats.

        Of several fakers, the sum of their gradients and the mean of their losses.
        """
        gradients, losses = zip(*(self._one_hot_gradient(model, batch) for model in self.fakers()), strict=True)
        return torch.stack(gradients).sum(dim=0), torch.stack(losses).mean()

    def _one_hot_gradient(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        words = model.get_input_embeddings()
        # Some models scale what the table holds, so it is asked for and not read.
        table = words(torch.arange(len(ids_within(self.tokenizer)), device=self.device)).detach()
        chosen = one_hot(self.current, len(table)).to(table.dtype).requires_grad_()
        inputs = self.slot.with_vectors(model, batch, chosen @ table)
        logits = answer_logits(model, inputs).float()
        loss = answer_loss(logits, batch, self.judged_by)
        (gradient,) = torch.autograd.grad(loss, chosen)
        return gradient.float(), loss.detach()

    @torch.no_grad()
    def losses(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Loss of the batch behind each candidate prefix, nats, (candidates,); of several fakers, their mean."""
        return torch.stack([self._losses(model, batch, candidates) for model in self.fakers()]).mean(dim=0)

    def _losses(self, model: Any, batch: Batch, candidates: Tensor) -> Tensor:
        count = len(batch["index"])
        nats: list[Tensor] = []
        at_once = max(1, self.rows // count)
        for start in range(0, len(candidates), at_once):
            part = candidates[start : start + at_once]
            together = _side_by_side([self.slot.with_tokens(batch, row) for row in part])
            logits = answer_logits(model, model_inputs(together)).float()
            each = answer_loss(logits, together, self.judged_by, reduction="none")
            nats.append(each.view(len(part), count).mean(dim=1))
        return torch.cat(nats)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss = self.judge(batch, 0)
        if self.other_fakers:
            loss = self.losses(batch, self.current[None])[0]
        self.validation_loss.update(loss, len(batch["index"]))
        self.log("val/loss", loss, batch_size=len(batch["index"]), sync_dist=True)

    @override
    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        loss = self.validation_loss.compute().item()
        self.validation_loss.reset()
        if not self.trainer.sanity_checking and loss < self.best_loss:
            self.best_loss = loss
            self.best.copy_(self.current)
            rank_zero_info(f"{self.method}: {self.result()[0]!r} has a validation loss of {loss:.4f} nats")

    @override
    def notes(self) -> dict[str, Any]:
        notes = super().notes()
        if not self.others:
            return notes
        needs: tuple[Need, ...] = ("labels", "other fakers") if self.left_out else (*self.needs, "other fakers")
        names = [other.name for other in self.others]
        digests = [None if other.adapter is None else digest_of_artefact(other.adapter) for other in self.others]
        return notes | {
            "name": f"{self.method}, {'other' if self.left_out else 'several'} fakers",
            "needs": list(needs),
            "others": names,
            "others_digests": digests,
            "left_out": self.left_out,
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["search"] = {"current": self.current, "best": self.best, "best_loss": self.best_loss}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        search = checkpoint["search"]
        self.current.copy_(search["current"])
        self.best.copy_(search["best"])
        self.best_loss = search["best_loss"]


def _side_by_side(batches: Sequence[Batch]) -> Batch:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

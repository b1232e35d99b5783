"""Fit maps: one LightningModule for every method at every site of the store, side by side."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import R2Score
from typing_extensions import override

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.arguments import OptimizerArguments
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.backbones.optimization import adamw_with_warmup, check_finite
from fa_lightning.common.activity import doing
from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.faker_pass import FakerPass, aligned_pass, unit_effects
from fa_lightning.regressors.fit import Fit
from fa_lightning.regressors.fit_plan import MEAN_SHIFT, FitPlan, map_at, map_key, ridge_beside, shuffled
from fa_lightning.regressors.fits_through_model import behaviour_loss, surrogate
from fa_lightning.regressors.fits_without_gradient import FitsWithoutGradient
from fa_lightning.regressors.gates import OversightProbe
from fa_lightning.regressors.pairs import Block, counted_rows, training_pairs
from fa_lightning.regressors.unit_scores import unit_scores


@dataclass(frozen=True)
class MapCandidate:
    """A fitted map, where it belongs and what it is called.

    Attributes:
        site: with the position rule of its fit.
        regressor: the map.
        fit: how it was fitted.
        r2: share of the aligned states' variance it explains on held-out tokens; nan before a validation.
        gate: says for which states the edit is made; None is for all.
        below: the earlier edits of a stack, in order.
    """

    site: Site
    regressor: Regressor
    fit: Fit
    r2: float = float("nan")
    gate: OversightProbe | None = None
    below: tuple[MapCandidate, ...] = ()


class RegressorModule(pl.LightningModule):
    """Makes every fit at every site of the store, or at those it names.

    The first epoch streams the moments of the pairs; at its end closed maps are solved, vectors and neighbours take
    their states, and gradient maps get their units. Later epochs train the gradient maps, each on its own loss; those
    with a `behaviour` objective through the live model. Each later epoch also fits one more site of every stack.
    Beside each fit a mean shift is fitted, a ridge map, and ridge maps on shuffled pairs, one for each draw: baselines
    that an evaluation needs at whatever site is chosen.

    | logged | what |
    | --- | --- |
    | `train/loss` | mean over maps fitted to states of the squared error in units of the twins' difference |
    | `train/behaviour` | mean over maps fitted through the live model of their loss (nats) |
    | `val/r2/<map>/<site>` | variance explained on held-out tokens; it does not predict the cure |

    Args:
        regressors: what to fit.
        optimizer: of the gradient maps.
        rank_units: in the second epoch, measure what each unit does to the answer (see `unit_effects`).
        seed: of the chain, for first weights and for exchanges of partners.

    Raises:
        UserError: `regressors` is empty, one of them makes no sense, or two would bear one name at one site.
    """

    choice: Tensor
    r2_values: Tensor

    def __init__(
        self,
        regressors: list[Fit],
        optimizer: OptimizerArguments = OptimizerArguments(learning_rate=2e-3, weight_decay=1e-2),
        rank_units: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not regressors:
            raise UserError("regressors is empty, but there must be at least one map to fit")
        for fit in regressors:
            fit.check()
        self.fits = list(regressors)
        self.optimizer = optimizer
        self.rank_units = rank_units
        self.seed = seed
        self.automatic_optimization = False
        self.maps = nn.ModuleDict()
        self.probes = nn.ModuleDict()
        self.effects = nn.ParameterDict()
        self.r2 = nn.ModuleDict()
        # The sites are known once there is a DataModule.
        self._plan = FitPlan(self.fits, [], 0, seed)
        self._batches: dict[str, int] = {}
        # Set by whoever evaluates the candidates: number of the chosen one and its strength; -1 is none yet.
        self.register_buffer("choice", torch.tensor([-1.0, 1.0]))

    @property
    def needs_prompts(self) -> bool:
        """Whether some fit goes through the live model, and so needs prompts beside the store's states."""
        through = any(fit.objective != "regression" for fit in self.fits)
        return through or self.rank_units or bool(self._plan.growing_stacks(epoch=1))

    @override
    def configure_model(self) -> None:
        if self.maps:
            return
        data = self._data
        hidden_size = int(data.variants.fingerprint["hidden_size"])
        self._plan = FitPlan(self.fits, data.sites, len(decoder_layers(data.variants.model)), self.seed)
        self._plan.refuse_equal_names()
        self._direct = FitsWithoutGradient(self._plan, self.maps, self.probes)
        for number, fit in enumerate(self._plan.all_fits):
            for site in self._plan.sites_of(number):
                self.maps[map_key(number, site)] = fit.build(hidden_size, self.seed)
                if fit.gate != "always":
                    self.probes[map_key(0, site)] = OversightProbe(hidden_size)
        if self.rank_units:
            for site in self._plan.sites:
                self.effects[map_key(0, site)] = nn.Parameter(torch.zeros(hidden_size), requires_grad=False)
        for number, site in self._plan.single_maps():
            self.r2[map_key(number, site)] = R2Score(multioutput="variance_weighted")
        self.register_buffer("r2_values", torch.full((len(self.r2),), float("nan")))
        if not any(parameter.requires_grad for parameter in self.maps.parameters()):
            # DistributedDataParallel refuses a module without one, and closed maps hold buffers alone.
            self.unused = nn.Parameter(torch.zeros(()))

    @override
    @doing("maps")
    def on_fit_start(self) -> None:
        stacks = [number for number, fit in enumerate(self.fits) if fit.stack is not None]
        longest = max((len(self._plan.sites_of(number)) for number in stacks), default=0)
        later = self.rank_units or any(fit.fit_kind == "gradient" for fit in self.fits)
        needed = max(longest, 2 if later else 1)
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            # One epoch, says Lightning, but a trial is to try the others, too.
            self.trainer.fit_loop.max_epochs = needed
        if (self.trainer.max_epochs or 0) < needed:
            raise UserError(
                f"trainer.max_epochs is {self.trainer.max_epochs}, but the first epoch only gathers moments: maps "
                f"fitted by gradient, rank_units and a stack of {longest} sites need {needed}; raise it"
            )
        if any(fit.fit_kind == "contrast" for fit in self.fits) and not hasattr(self._data, "contrast"):
            raise UserError("a contrast vector needs states of contrast pairs: use LabDataModule as data")
        if self.needs_prompts and not getattr(self._data, "live_batch_size", None):
            raise UserError(
                "a behaviour objective, a stack or rank_units needs prompts for the live model, but the DataModule "
                "serves none: set data.init_args.live_batch_size, for example to 16"
            )

    def candidates(self) -> list[MapCandidate]:
        """The maps to choose from, sites in order within each fit; a stack is one candidate."""
        candidates = []
        for number, fit in enumerate(self.fits):
            at_sites = [self._candidate(number, site) for site in self._plan.sites_of(number)]
            if fit.stack is None:
                candidates += at_sites
            else:
                candidates.append(dataclasses.replace(at_sites[-1], below=tuple(at_sites[:-1])))
        return candidates

    def baselines(self, candidate: MapCandidate) -> dict[str, list[MapCandidate]]:
        """The baselines at a candidate's site, on its tokens; of the shuffled pairs one for each draw.

        Maps of shuffled pairs are ridge maps. Where the candidate is another kind of map, a ridge map of its own pairs
        stands beside them, so that what the right partner does is not taken for what the kind of map does.
        """
        fit = candidate.fit
        baselines = {
            "mean shift": [MEAN_SHIFT],
            "shuffled pairs": shuffled(fit, self.seed),
            "ridge, right pairs": ridge_beside(fit),
        }
        return {
            name: [
                MapCandidate(candidate.site, self._map(self._plan.baseline_number(draw), candidate.site), draw)
                for draw in draws
            ]
            for name, draws in baselines.items()
            if draws
        }

    def unit_scores(self, ranking: str, site: Site) -> Tensor:
        """How much each unit matters at a site, (hidden,): by `difference`, `ridge` weight or `effect` on the answer.

        Raises:
            UserError: what the ranking needs was not fitted.
            ValueError: there is no such ranking.
        """
        return unit_scores(ranking, site, self._plan, self.maps, self.effects)

    @override
    def on_train_epoch_start(self) -> None:
        loaders: Any = self.trainer.train_dataloader
        self._batches = {name: len(loader) for name, loader in loaders.items()}

    @override
    @doing("maps")
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        # The longest loader sets the length of an epoch; the others start over, and moments count every pair once.
        if self.current_epoch == 0:
            if batch_idx < self._batches["states"]:
                self._direct.add(batch["states"])
            return
        losses = {
            "train/loss": [
                self._map(number, site).loss(*training_pairs(batch["states"], site, self.fits[number]))
                for number, site in self._plan.gradient_fits("regression")
            ]
        }
        if self.needs_prompts:
            losses["train/behaviour"] = self._live_step(batch, batch_idx)
        every = [loss for group in losses.values() for loss in group]
        if not every:
            return
        check_finite(torch.stack(every).sum(), self.global_step, batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        # A sum: the maps share no parameter, so each gets the gradient of its own loss.
        self.manual_backward(torch.stack(every).sum())
        optimizer.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        for name, group in losses.items():
            if group:
                self.log(name, torch.stack(group).detach().mean(), prog_bar=True)

    @override
    @doing("maps")
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Validation of an epoch comes before `on_train_epoch_end`, and needs the maps.
        if batch_idx + 1 < self.trainer.num_training_batches:
            return
        if self.current_epoch == 0:
            self._direct.fit_first(self._data)
        else:
            self._direct.fit_next_of_stacks(self.current_epoch)
            if self.rank_units and self.current_epoch == 1:
                for effect in self.effects.values():
                    effect.copy_(self.trainer.strategy.reduce(effect, reduce_op="sum"))

    @override
    @doing("steering")
    def validation_step(self, batch: Block, batch_idx: int, dataloader_idx: int) -> None:
        # The other loaders belong to the callback that evaluates steering.
        if dataloader_idx != 0:
            return
        for number, site in self._plan.single_maps():
            counted = counted_rows(batch, site, self.fits[number])
            faking, aligned = (states[counted] for states in batch[site.name])
            with torch.autocast(faking.device.type, enabled=False):
                predicted = self._map(number, site)(faking.float())
            self.r2[map_key(number, site)].update(predicted, aligned.float())  # type: ignore[operator]

    @override
    @doing("steering")
    def on_validation_epoch_end(self) -> None:
        for index, (number, site) in enumerate(self._plan.single_maps()):
            metric: Any = self.r2[map_key(number, site)]
            self.r2_values[index] = metric.compute()
            self.log(f"val/r2/{self.fits[number].title}/{site.name}", metric, add_dataloader_idx=False)

    @override
    def test_step(self, batch: Block, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The test loaders belong to the callback that evaluates steering."""

    @override
    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.maps.parameters() if parameter.requires_grad]
        if not parameters:
            return None
        steps = int(self.trainer.estimated_stepping_batches)
        return adamw_with_warmup(parameters, self.optimizer, steps)

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _live_step(self, batch: dict[str, Any], batch_idx: int) -> list[Tensor]:
        """Losses of the fits through the live model; stacks and unit effects are only counted."""
        prompts, fits = batch["prompts"], self._plan.gradient_fits("behaviour", "mixed")
        counts = batch_idx < self._batches["prompts"]
        ranks = counts and self.rank_units and self.current_epoch == 1
        stacks = counts and self._plan.growing_stacks(self.current_epoch)
        if not (fits or ranks or stacks):
            return []
        variants = self._data.variants
        live = FakerPass(variants, prompts, self._plan.sites, last_only=True)
        answers, aligned = aligned_pass(variants, prompts, self._plan.sites)
        if ranks:
            for name, effect in unit_effects(live, self._plan.sites, aligned).items():
                self.effects[map_key(0, Site.parse(name))].add_(effect)
        if stacks:
            self._direct.add_to_stacks(self.current_epoch, live, aligned, batch["neutral"])
        if not fits:
            return []
        texts = FakerPass(variants, batch["neutral"], [site for _, site in fits], last_only=False)
        losses = []
        for number, site in fits:
            regressor = self._map(number, site)
            loss = behaviour_loss(self.fits[number], site, regressor, live, texts, answers, aligned)
            losses.append(surrogate(loss, regressor))
        return losses

    def _map(self, number: int, site: Site) -> Regressor:
        return map_at(self.maps, number, site)

    def _candidate(self, number: int, site: Site) -> MapCandidate:
        fit = self.fits[number]
        r2 = float("nan")
        if fit.stack is None:
            # A callback asks before this module's own hook has noted the values of the epoch.
            metric: Any = self.r2[map_key(number, site)]
            stored = self.r2_values[list(self._plan.single_maps()).index((number, site))]
            r2 = float(metric.compute() if metric.update_count else stored)
        gate: Any = self.probes[map_key(0, site)] if fit.gate != "always" else None
        return MapCandidate(site, self._map(number, site), fit, r2, gate)

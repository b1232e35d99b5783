"""Fit maps: one LightningModule for every method at every site of the store, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import R2Score
from typing_extensions import override

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.training import adamw_with_warmup, check_finite
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.gates import OversightProbe
from fa_lightning.regressors.live import LivePass, aligned_pass, unit_effects
from fa_lightning.regressors.live_fits import live_loss, stack_pairs, surrogate
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.regressors.registry import REGRESSORS
from fa_lightning.regressors.rows import decision_states, training_rows
from fa_lightning.regressors.spec import DECISION_ALONE, Block, RegressorSpec, training_pairs


@dataclass(frozen=True)
class Candidate:
    """A fitted map, where it belongs and what it is called.

    Attributes:
        site: with the position rule of its spec.
        regressor: the map.
        spec: how it was fitted.
        r2: share of the aligned states' variance it explains on held-out tokens; nan before a validation.
        gate: says for which states the edit is made; None is for all.
        below: the earlier edits of a stack, in order.
    """

    site: Site
    regressor: Regressor
    spec: RegressorSpec
    r2: float = float("nan")
    gate: OversightProbe | None = None
    below: tuple[Candidate, ...] = ()


class RegressorModule(pl.LightningModule):
    """Fits every spec at every site of the store, or at those it names.

    The first epoch streams the moments of the pairs; at its end closed maps are solved, vectors and neighbours take
    their states, and gradient maps get their units. Later epochs train the gradient maps, each on its own loss; those
    with a `behaviour` objective through the live model. Each later epoch also fits one more site of every stack.
    Beside each spec a ridge map is fitted on shuffled pairs, and a mean shift: baselines that an evaluation needs at
    whatever site is chosen.

    | logged | what |
    | --- | --- |
    | `train/loss` | mean over maps fitted to states of the squared error in units of the twins' difference |
    | `train/behaviour` | mean over maps fitted through the live model of their loss (nats) |
    | `val/r2/<map>/<site>` | variance explained on held-out tokens; it does not predict the cure |

    Args:
        regressors: what to fit.
        learning_rate: of the gradient maps, at its top.
        weight_decay: on their matrices.
        warmup_fraction: share of steps spent rising to `learning_rate`.
        rank_units: in the second epoch, measure what each unit does to the answer (see `unit_effects`).

    Raises:
        ValueError: `regressors` is empty, one of them makes no sense, or two would bear one name at one site.
    """

    choice: Tensor
    r2_values: Tensor

    def __init__(
        self,
        regressors: list[RegressorSpec],
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        warmup_fraction: float = 0.05,
        rank_units: bool = False,
    ) -> None:
        super().__init__()
        if not regressors:
            raise ValueError("regressors is empty, but there must be at least one map to fit")
        for spec in regressors:
            spec.check()
        self.specs = list(regressors)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.rank_units = rank_units
        self.automatic_optimization = False
        self.maps = nn.ModuleDict()
        self.probes = nn.ModuleDict()
        self.effects = nn.ParameterDict()
        self.r2 = nn.ModuleDict()
        self._moments: dict[Any, PairMoments] = {}
        self._sites: list[Site] = []
        self._batches: dict[str, int] = {}
        # Set by whoever evaluates the candidates: number of the chosen one and its strength; -1 is none yet.
        self.register_buffer("choice", torch.tensor([-1.0, 1.0]))

    @property
    def all_specs(self) -> list[RegressorSpec]:
        """The candidates' specs, then those of the baselines fitted beside them."""
        baselines = [_MEAN_SHIFT, *(_shuffled(spec) for spec in self.specs)]
        return [*self.specs, *(spec for place, spec in enumerate(baselines) if spec not in baselines[:place])]

    @property
    def needs_prompts(self) -> bool:
        """Whether some fit goes through the live model, and so needs prompts beside the store's states."""
        stacks = any(spec.stack is not None and len(spec.stack) > 1 for spec in self.specs)
        return stacks or self.rank_units or any(spec.objective != "regression" for spec in self.specs)

    @override
    def configure_model(self) -> None:
        if self.maps:
            return
        data = self._data
        self._sites = data.sites
        hidden_size = int(data.variants.fingerprint["hidden_size"])
        self._refuse_equal_names()
        for number, spec in enumerate(self.all_specs):
            for site in self._places(number):
                self.maps[_key(number, site)] = spec.build(hidden_size)
                if spec.gate != "always":
                    self.probes[_key(0, site)] = OversightProbe(hidden_size)
        if self.rank_units:
            for site in self._sites:
                self.effects[_key(0, site)] = nn.Parameter(torch.zeros(hidden_size), requires_grad=False)
        for number, site in self._placed():
            self.r2[_key(number, site)] = R2Score(multioutput="variance_weighted")
        self.register_buffer("r2_values", torch.full((len(self.r2),), float("nan")))
        if not any(parameter.requires_grad for parameter in self.maps.parameters()):
            # DistributedDataParallel refuses a module without one, and closed maps hold buffers alone.
            self.unused = nn.Parameter(torch.zeros(()))

    @override
    def on_fit_start(self) -> None:
        longest = max((len(spec.stack or ()) for spec in self.specs), default=0)
        later = self.rank_units or any(REGRESSORS[spec.name].fit_kind == "gradient" for spec in self.specs)
        needed = max(longest, 2 if later else 1)
        if (self.trainer.max_epochs or 0) < needed:
            raise ValueError(
                f"trainer.max_epochs is {self.trainer.max_epochs}, but the first epoch only gathers moments: maps "
                f"fitted by gradient, rank_units and a stack of {longest} sites need {needed}; raise it"
            )
        if any(REGRESSORS[spec.name].fit_kind == "contrast" for spec in self.specs) and not hasattr(
            self._data, "contrast"
        ):
            raise ValueError("a contrast vector needs states of contrast pairs: use LabDataModule as data")
        if self.needs_prompts and not getattr(self._data, "live_batch_size", None):
            raise ValueError(
                "a behaviour objective, a stack or rank_units needs prompts for the live model, but the DataModule "
                "serves none: set data.init_args.live_batch_size, for example to 16"
            )

    def candidates(self) -> list[Candidate]:
        """The maps to choose from, sites in order within each spec; a stack is one candidate."""
        found = []
        for number, spec in enumerate(self.specs):
            places = self._places(number)
            if spec.stack is None:
                found += [self._candidate(number, site) for site in places]
            else:
                parts = [self._candidate(number, site) for site in places]
                found.append(dataclasses.replace(parts[-1], below=tuple(parts[:-1])))
        return found

    def baselines(self, candidate: Candidate) -> dict[str, Candidate]:
        """The mean shift and the shuffled-pairs map at a candidate's site, on its tokens."""
        found = {}
        for name, spec in (("mean shift", _MEAN_SHIFT), ("shuffled pairs", _shuffled(candidate.spec))):
            # The last: a candidate may be a mean shift of the same spec, and is not its own baseline.
            number = len(self.all_specs) - 1 - self.all_specs[::-1].index(spec)
            found[name] = Candidate(candidate.site, self._map(number, candidate.site), spec)
        return found

    def unit_scores(self, ranking: str, site: Site) -> Tensor:
        """How much each unit matters at a site, (hidden,): by `difference`, `ridge` weight or `effect` on the answer.

        Raises:
            ValueError: there is no such ranking, or what it needs was not fitted.
        """
        scores: Tensor
        if ranking == "difference":
            shift: Any = self._map(self.all_specs.index(_MEAN_SHIFT), site)
            scores = shift.shift.abs()
            return scores
        if ranking == "ridge":
            for number, spec in enumerate(self.specs):
                if spec.name == "affine" and spec.stack is None and site in self._places(number):
                    ridge: Any = self._map(number, site)
                    weight: Tensor = ridge.weight
                    scores = (weight - torch.eye(len(weight), device=weight.device)).norm(dim=1)
                    return scores
            raise ValueError("units are ranked by ridge weight, but no affine map is fitted there: add one")
        if ranking != "effect":
            raise ValueError(f"ranking is {ranking!r}, but must be difference, ridge or effect")
        if not self.rank_units:
            raise ValueError("units are ranked by effect, but their effects were not measured: set rank_units: true")
        scores = self.effects[_key(0, site)].abs()
        return scores

    @override
    def on_train_epoch_start(self) -> None:
        loaders: Any = self.trainer.train_dataloader
        self._batches = {name: len(loader) for name, loader in loaders.items()}

    @override
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        # The longest loader sets the length of an epoch; the others start over, and moments count every pair once.
        if self.current_epoch == 0:
            if batch_idx < self._batches["states"]:
                self._add_moments(batch["states"])
            return
        losses = {
            "train/loss": [
                self._map(number, site).loss(*training_pairs(batch["states"], site, self.specs[number]))
                for number, site in self._gradient_fits("regression")
            ]
        }
        if self.needs_prompts:
            losses["train/behaviour"] = self._live_step(batch, batch_idx)
        every = [loss for found in losses.values() for loss in found]
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
        for name, found in losses.items():
            if found:
                self.log(name, torch.stack(found).detach().mean(), prog_bar=True)

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Validation of an epoch comes before `on_train_epoch_end`, and needs the maps.
        if batch_idx + 1 < self.trainer.num_training_batches:
            return
        if self.current_epoch == 0:
            self._fit_first()
        else:
            self._fit_next_of_stacks()
            if self.rank_units and self.current_epoch == 1:
                for effect in self.effects.values():
                    effect.copy_(self.trainer.strategy.reduce(effect, reduce_op="sum"))

    @override
    def validation_step(self, batch: Block, batch_idx: int, dataloader_idx: int) -> None:
        # The other loaders belong to the callback that evaluates steering.
        if dataloader_idx != 0:
            return
        for number, site in self._placed():
            faking, aligned = batch[site.name]
            with torch.autocast(faking.device.type, enabled=False):
                predicted = self._map(number, site)(faking.float())
            self.r2[_key(number, site)].update(predicted, aligned.float())  # type: ignore[operator]

    @override
    def on_validation_epoch_end(self) -> None:
        for place, (number, site) in enumerate(self._placed()):
            metric: Any = self.r2[_key(number, site)]
            self.r2_values[place] = metric.compute()
            self.log(f"val/r2/{self.specs[number].title}/{site.name}", metric, add_dataloader_idx=False)

    @override
    def test_step(self, batch: Block, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The test loaders belong to the callback that evaluates steering."""

    @override
    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.maps.parameters() if parameter.requires_grad]
        if not parameters:
            return None
        steps = int(self.trainer.estimated_stepping_batches)
        return adamw_with_warmup(parameters, self.learning_rate, self.weight_decay, self.warmup_fraction, steps)

    def _refuse_equal_names(self) -> None:
        names = [
            f"'{spec.title}' at {site.name}"
            for number, spec in enumerate(self.specs)
            for site in (self._places(number)[-1:] if spec.stack else self._places(number))
        ]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two regressors are called {name}: tell them apart by `method` or `seed`")

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _places(self, number: int) -> list[Site]:
        """A spec's sites; the baselines' are all, since any may be chosen."""
        if number < len(self.specs):
            return self.specs[number].places(self._sites)
        return list(self._sites)

    def _placed(self) -> Iterator[tuple[int, Site]]:
        """Every spec's number with each of its sites, but for stacks, whose states are not the store's."""
        for number, spec in enumerate(self.specs):
            if spec.stack is None:
                for site in self._places(number):
                    yield number, site

    def _gradient_fits(self, *objectives: str) -> list[tuple[int, Site]]:
        return [
            (number, site)
            for number, site in self._placed()
            if self._map(number, site).fit_kind == "gradient" and self.specs[number].objective in objectives
        ]

    def _add_moments(self, block: Block) -> None:
        for key, (spec, site) in self._wanted_moments().items():
            faking, aligned, weight = training_pairs(block, site, spec)
            if spec.shuffled:
                aligned = aligned[torch.randperm(len(aligned), device=aligned.device)]
            self._moments.setdefault(key, PairMoments(faking.shape[1])).add(faking, aligned, weight)

    def _wanted_moments(self) -> dict[Any, tuple[RegressorSpec, Site]]:
        """Specs that take the same pairs share their moments."""
        wanted = {}
        for number, spec in enumerate(self.all_specs):
            for site in self._places(number)[: 1 if spec.stack else None]:
                if self._map(number, site).fit_kind in ("closed", "gradient"):
                    wanted[_pairs_key(spec, site)] = (spec, site)
        return wanted

    @torch.no_grad()
    def _fit_first(self) -> None:
        """Everything that the moments and the store's rows suffice for."""
        for moments in self._moments.values():
            moments.all_reduce()
        data = self._data
        for number, spec in enumerate(self.all_specs):
            for site in self._places(number)[: 1 if spec.stack else None]:
                regressor = self._map(number, site)
                if regressor.fit_kind == "closed":
                    regressor.fit(self._moments[_pairs_key(spec, site)])
                elif regressor.fit_kind == "gradient":
                    regressor.standardise(self._moments[_pairs_key(spec, site)])
                elif regressor.fit_kind == "samples":
                    regressor.fit_samples(*training_rows(data.store, site, spec))
                else:
                    contrast = data.contrast(spec.contrast)
                    regressor.fit_contrast(contrast.positive[site.name], contrast.negative[site.name])
        for key, probe in self.probes.items():
            site = next(site for site in self._sites if _key(0, site) == key)
            probe.fit(*decision_states(data.store, site))  # type: ignore[operator]
        self._moments.clear()

    def _live_step(self, batch: dict[str, Any], batch_idx: int) -> list[Tensor]:
        """Losses of the fits through the live model; stacks and unit effects are only counted."""
        prompts, fits = batch["prompts"], self._gradient_fits("behaviour", "mixed")
        counts = batch_idx < self._batches["prompts"]
        ranks = counts and self.rank_units and self.current_epoch == 1
        stacks = counts and any(len(spec.stack or ()) > self.current_epoch for spec in self.specs)
        if not (fits or ranks or stacks):
            return []
        variants = self._data.variants
        live = LivePass.of(variants, prompts, self._sites, last_only=True)
        answers, aligned = aligned_pass(variants, prompts, self._sites)
        if ranks:
            for name, effect in unit_effects(live, self._sites, aligned).items():
                self.effects[_key(0, Site.parse(name))].add_(effect)
        if stacks:
            self._add_stack_moments(live, aligned, batch["neutral"])
        if not fits:
            return []
        texts = LivePass.of(variants, batch["neutral"], [site for _, site in fits], last_only=False)
        losses = []
        for number, site in fits:
            regressor = self._map(number, site)
            loss = live_loss(self.specs[number], site, regressor, live, texts, answers, aligned)
            losses.append(surrogate(loss, regressor))
        return losses

    @torch.no_grad()
    def _add_stack_moments(self, live: LivePass, aligned: dict[str, Tensor], texts: dict[str, Tensor]) -> None:
        for number, spec in enumerate(self.specs):
            if len(spec.stack or ()) <= self.current_epoch:
                continue
            places = self._places(number)
            site = places[self.current_epoch]
            edits = [(place, self._map(number, place)) for place in places[: self.current_epoch]]
            for pairs in stack_pairs(spec, site, edits, live, aligned, texts):
                self._moments.setdefault(number, PairMoments(pairs[0].shape[1])).add(*pairs)

    def _fit_next_of_stacks(self) -> None:
        for number in sorted(self._moments):
            moments = self._moments.pop(number)
            moments.all_reduce()
            self._map(number, self._places(number)[self.current_epoch]).fit(moments)

    def _map(self, number: int, site: Site) -> Regressor:
        return self.maps[_key(number, site)]  # type: ignore[return-value]

    def _candidate(self, number: int, site: Site) -> Candidate:
        spec = self.specs[number]
        r2 = float("nan")
        if spec.stack is None:
            # A callback asks before this module's own hook has noted the values of the epoch.
            metric: Any = self.r2[_key(number, site)]
            noted = self.r2_values[list(self._placed()).index((number, site))]
            r2 = float(metric.compute() if metric.update_count else noted)
        gate: Any = self.probes[_key(0, site)] if spec.gate != "always" else None
        return Candidate(site, self._map(number, site), spec, r2, gate)


_MEAN_SHIFT = RegressorSpec("mean_shift", decision_weight=DECISION_ALONE)


def _shuffled(spec: RegressorSpec) -> RegressorSpec:
    """The ridge map of wrong pairs that a spec is compared with."""
    return RegressorSpec("affine", decision_weight=spec.decision_weight, ridge=spec.ridge, shuffled=True)


def _pairs_key(spec: RegressorSpec, site: Site) -> tuple[Any, ...]:
    """What the pairs that a map is fitted on depend on."""
    return (site.name, spec.decision_weight, spec.keep, spec.scenarios, spec.shuffled)


def _key(number: int, site: Site) -> str:
    """A name that `nn.ModuleDict` takes: no dots."""
    return f"{number}-{site.name.replace('.', '_')}"

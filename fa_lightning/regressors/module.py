"""Fit maps: one LightningModule for every regressor at every site of the store, side by side in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics import R2Score
from typing_extensions import override

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.training import adamw_with_warmup, check_finite
from fa_lightning.regressors.maps import Regressor, build_regressor
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.scenarios.batches import NEUTRAL_CELL

Block = dict[str, Any]
"""For each site's name (faking, aligned) states, each (rows, hidden); `decision` and `cell`, each (rows,)."""

DECISION_ALONE = float("inf")


@dataclass
class RegressorSpec:
    """One map to be fitted at every site.

    Attributes:
        name: of the map.
        positions: tokens it will edit: `all`, `last`, `generated` or `from_K`.
        decision_weight: weight of a decision token in the fit, where other tokens weigh 1; `inf` takes no other token.
        keep: weight of pairs that ask for no edit: neutral texts, and the aligned twin's own states. Where the twins
            differ there too, a map without them would carry over their differences, which are side effects.
        ridge: of `affine`: penalty relative to the mean variance of a unit.
        width: of `residual_mlp`: units of its inner layer.
        dropout: of `residual_mlp`.
        shuffled: fit on wrong pairs (aligned states permuted within a block): a baseline, never chosen.
    """

    name: Literal["identity", "mean_shift", "affine", "residual_mlp"]
    positions: str = "all"
    decision_weight: float = 1.0
    keep: float = 0.0
    ridge: float = 1e-2
    width: int = 256
    dropout: float = 0.0
    shuffled: bool = False

    @property
    def label(self) -> str:
        """A short name for tables: the map, and what it was fitted on."""
        weight = {1.0: "", DECISION_ALONE: " (decision token)"}.get(
            self.decision_weight, f" (decision x{self.decision_weight:g})"
        )
        return f"{self.name}{weight}{' shuffled' if self.shuffled else ''}"

    def build(self, hidden_size: int) -> Regressor:
        """The unfitted map."""
        options: dict[str, Any] = {
            "affine": {"ridge": self.ridge},
            "residual_mlp": {"width": self.width, "dropout": self.dropout},
        }.get(self.name, {})
        return build_regressor({"name": self.name, **options}, hidden_size)


@dataclass(frozen=True)
class Candidate:
    """A fitted map, where it belongs and what it is called.

    Attributes:
        site: with the position rule of its spec.
        regressor: the map.
        spec: how it was fitted.
        r2: share of the aligned states' variance it explains on held-out tokens; nan before a validation.
    """

    site: Site
    regressor: Regressor
    spec: RegressorSpec
    r2: float = float("nan")


class RegressorModule(pl.LightningModule):
    """Fits every spec at every site of the store.

    The first epoch streams the moments of the pairs; at its end closed maps are solved and gradient maps get their
    units. Later epochs train the gradient maps, each on its own loss. Beside each spec a copy is fitted on shuffled
    pairs, and a mean shift: baselines that the evaluation needs at whatever site is chosen.

    | logged | what |
    | --- | --- |
    | `train/loss` | mean over gradient maps of the squared error in units of the twins' difference |
    | `val/r2/<map>/<site>` | variance explained on held-out tokens; it does not predict the cure |

    Args:
        regressors: what to fit.
        learning_rate: of the gradient maps, at its top.
        weight_decay: on their matrices.
        warmup_fraction: share of steps spent rising to `learning_rate`.
    """

    choice: Tensor

    def __init__(
        self,
        regressors: list[RegressorSpec],
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        warmup_fraction: float = 0.05,
    ) -> None:
        super().__init__()
        if not regressors:
            raise ValueError("regressors is empty, but there must be at least one map to fit")
        self.specs = list(regressors)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_fraction = warmup_fraction
        self.automatic_optimization = False
        self.maps = nn.ModuleDict()
        self.r2 = nn.ModuleDict()
        self._moments: dict[str, PairMoments] = {}
        self._sites: list[Site] = []
        # Set by whoever evaluates the candidates: number of the chosen one and its strength; -1 is none yet.
        self.register_buffer("choice", torch.tensor([-1.0, 1.0]))

    @property
    def all_specs(self) -> list[RegressorSpec]:
        """The candidates' specs, then those of the baselines fitted beside them."""
        shuffled = [
            RegressorSpec("affine", spec.positions, spec.decision_weight, spec.ridge, shuffled=True)
            for spec in self.specs
        ]
        shift = RegressorSpec("mean_shift", decision_weight=DECISION_ALONE)
        return _distinct([*self.specs, shift, *shuffled])

    @override
    def configure_model(self) -> None:
        if self.maps:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self._sites = data.sites
        hidden_size = int(data.variants.fingerprint["hidden_size"])
        for number, spec in enumerate(self.all_specs):
            for site in self._sites:
                self.maps[_key(number, site)] = spec.build(hidden_size)
        for number in range(len(self.specs)):
            for site in self._sites:
                self.r2[_key(number, site)] = R2Score(multioutput="variance_weighted")
        if not any(parameter.requires_grad for parameter in self.maps.parameters()):
            # DistributedDataParallel refuses a module without one, and closed maps hold buffers alone.
            self.unused = nn.Parameter(torch.zeros(()))

    def candidates(self) -> list[Candidate]:
        """The maps to choose from, sites in order within each spec."""
        return [self._candidate(number, site) for number in range(len(self.specs)) for site in self._sites]

    def baselines(self, candidate: Candidate) -> dict[str, Candidate]:
        """The mean shift and the shuffled-pairs map at a candidate's site, on its tokens."""
        shuffled = RegressorSpec(
            "affine", candidate.spec.positions, candidate.spec.decision_weight, candidate.spec.ridge, shuffled=True
        )
        shift = RegressorSpec("mean_shift", decision_weight=DECISION_ALONE)
        found = {}
        for name, spec in (("mean shift", shift), ("shuffled pairs", shuffled)):
            number = self.all_specs.index(spec)
            site = Site(candidate.site.layer, candidate.site.component, candidate.site.positions)
            found[name] = Candidate(site, self._map(number, site), spec)
        return found

    @override
    def training_step(self, batch: Block, batch_idx: int) -> None:
        if self.current_epoch == 0:
            self._add_moments(batch)
            return
        losses = [
            self._map(number, site).loss(*training_pairs(batch, site, spec))
            for number, spec in enumerate(self.specs)
            for site in self._sites
            if self._map(number, site).fit_kind == "gradient"
        ]
        if not losses:
            return
        loss = torch.stack(losses)
        check_finite(loss.sum(), self.global_step, batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        # A sum: the maps share no parameter, so each gets the gradient of its own loss.
        self.manual_backward(loss.sum())
        optimizer.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        self.log("train/loss", loss.mean(), prog_bar=True)

    @override
    def on_train_batch_end(self, outputs: Any, batch: Block, batch_idx: int) -> None:
        # Validation of the first epoch comes before `on_train_epoch_end`, and needs the closed maps.
        if self.current_epoch == 0 and batch_idx + 1 == self.trainer.num_training_batches:
            self._fit_from_moments()

    @override
    def validation_step(self, batch: Block, batch_idx: int, dataloader_idx: int) -> None:
        # The other loaders belong to the callback that evaluates steering.
        if dataloader_idx != 0:
            return
        for number in range(len(self.specs)):
            for site in self._sites:
                faking, aligned = batch[site.name]
                self.r2[_key(number, site)].update(self._map(number, site)(faking), aligned.float())  # type: ignore[operator]

    @override
    def on_validation_epoch_end(self) -> None:
        for number, spec in enumerate(self.specs):
            for site in self._sites:
                metric: Any = self.r2[_key(number, site)]
                self.log(f"val/r2/{spec.label}/{site.name}", metric, add_dataloader_idx=False)

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

    def _add_moments(self, batch: Block) -> None:
        for number, spec in enumerate(self.all_specs):
            for site in self._sites:
                faking, aligned, weight = training_pairs(batch, site, spec)
                if spec.shuffled:
                    aligned = aligned[torch.randperm(len(aligned), device=aligned.device)]
                key = _key(number, site)
                self._moments.setdefault(key, PairMoments(faking.shape[1])).add(faking, aligned, weight)

    def _fit_from_moments(self) -> None:
        for number in range(len(self.all_specs)):
            for site in self._sites:
                moments = self._moments.pop(_key(number, site))
                moments.all_reduce()
                regressor = self._map(number, site)
                if regressor.fit_kind == "closed":
                    regressor.fit(moments)
                else:
                    regressor.standardise(moments)

    def _map(self, number: int, site: Site) -> Regressor:
        return self.maps[_key(number, site)]  # type: ignore[return-value]

    def _candidate(self, number: int, site: Site) -> Candidate:
        spec = self.specs[number]
        metric: Any = self.r2[_key(number, site)]
        r2 = float(metric.compute()) if metric.update_count else float("nan")
        placed = Site(site.layer, site.component, spec.positions)
        return Candidate(placed, self._map(number, site), spec, r2)


def training_pairs(block: Block, site: Site, spec: RegressorSpec) -> tuple[Tensor, Tensor, Tensor]:
    """What a map is fitted on: states (n, hidden), what they should become (n, hidden), and weights (n,).

    Args:
        block: of the store.
        site: whose states.
        spec: says which tokens count how much.
    """
    faking, aligned = (states.float() for states in block[site.name])
    weight = token_weights(block["decision"], spec)
    if not spec.keep:
        used = weight > 0
        return faking[used], aligned[used], weight[used]
    neutral = block["cell"] == NEUTRAL_CELL
    wanted = torch.where(neutral[:, None], faking, aligned)
    weight = torch.where(neutral, spec.keep, weight)
    own = ~neutral & (weight > 0)
    used = weight > 0
    return (
        torch.cat([faking[used], aligned[own]]),
        torch.cat([wanted[used], aligned[own]]),
        torch.cat([weight[used], spec.keep * weight[own]]),
    )


def token_weights(decision: Tensor, spec: RegressorSpec) -> Tensor:
    """Weights (rows,) of the tokens in a fit.

    >>> token_weights(torch.tensor([False, True]), RegressorSpec("affine", decision_weight=5.0))
    tensor([1., 5.])
    """
    if spec.decision_weight == DECISION_ALONE:
        return decision.float()
    return torch.where(decision, spec.decision_weight, 1.0)


def _key(number: int, site: Site) -> str:
    """A name that `nn.ModuleDict` takes: no dots."""
    return f"{number}-{site.name.replace('.', '_')}"


def _distinct(specs: list[RegressorSpec]) -> list[RegressorSpec]:
    kept: list[RegressorSpec] = []
    for spec in specs:
        if spec not in kept:
            kept.append(spec)
    return kept

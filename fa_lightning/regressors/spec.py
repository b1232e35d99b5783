"""What a map is fitted on, how and where: one spec a method, and the pairs that it gives."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fa_lightning.activations.site_names import SiteName, check_sites, is_absolute, resolve_sites
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.generators import seeded
from fa_lightning.errors import UserError
from fa_lightning.regressors.base import FitKind, Regressor
from fa_lightning.regressors.registry import REGRESSORS, build_regressor
from fa_lightning.scenarios.cells import NEUTRAL_CELL

Block = dict[str, Any]
"""For each site's name (faking, aligned) states, each (rows, hidden); `decision`, `cell`, `example`, each (rows,)."""

DECISION_ALONE = float("inf")

MapName = Literal[
    "identity",
    "mean_shift",
    "diagonal_affine",
    "sorted_transport",
    "affine",
    "low_rank",
    "residual_mlp",
    "mlp",
    "loreft",
    "low_rank_residual",
    "nearest_neighbours",
    "contrast_vector",
    "projection_shift",
]


@dataclass
class RegressorSpec:
    """One map to be fitted at every site, or at those it names.

    Options from `ridge` on belong to some maps only; one that a map does not take is refused.

    Attributes:
        name: of the map.
        method: what tables call it; None composes a name.
        positions: tokens it will edit: `all`, `last`, `generated` or `from_K`.
        sites: names of the sites to fit at; None is every residual-stream site of the store (every site if it has
            none).
        stack: sites to edit together, fitted in this order, each on states that the earlier ones have steered; closed
            maps only, one epoch for each site.
        decision_weight: weight of a decision token in the fit, where other tokens weigh 1; `inf` takes no other token.
        keep: weight of pairs that ask for no edit: neutral texts, and the aligned twin's own states. Where the twins
            differ there too, a map without them would carry over their differences, which are side effects.
        objective: `regression`: squared error between the twins' states; `behaviour`: KL from the aligned twin's answer
            distribution to the steered faker's, through the frozen layers above; `mixed`: their sum, the error being
            that of the decision tokens. The last two are for maps fitted by gradient.
        neutral_weight: of `behaviour` and `mixed`: weight of the KL that the edit causes on neutral texts.
        regression_weight: of `mixed`: weight of the squared error, which is about 1 where the map predicts nothing.
        gate: edit `always`, or only where an `oversight_probe`, fitted on the faker's own states, says poor.
        scenarios: fit on so many of the captured scenarios; None takes all.
        shuffled: fit on wrong pairs (aligned states permuted within a block): a baseline, never chosen.
        seed: of the map's first weights.
        ridge: penalty relative to the mean variance of a unit.
        rank: of a low-rank edit.
        on_ridge: add the map to the ridge solution, not to the identity.
        width: units of an inner layer.
        depth: number of inner layers.
        dropout: probability of dropping an inner unit.
        neighbours: of `nearest_neighbours`.
        memory: pairs that `nearest_neighbours` keeps.
        residual: whether neighbours vote on the edit or on the state itself.
        contrast: of vectors, all in the faker alone: states with `oversight` minus without; the aligned `answers` minus
            the others; the DataModule's own `prompts`.
        direction: the contrast's `mean` difference, or the `principal` direction of the paired differences.
        normalise: give the vector unit norm.
        mode: of `projection_shift`: move to the `target` or to the `mirror` image.
    """

    name: MapName
    method: str | None = None
    positions: str = "all"
    sites: list[SiteName] | None = None
    stack: list[SiteName] | None = None
    decision_weight: float = 1.0
    keep: float = 0.0
    objective: Literal["regression", "behaviour", "mixed"] = "regression"
    neutral_weight: float = 1.0
    regression_weight: float = 0.1
    gate: Literal["always", "oversight_probe"] = "always"
    scenarios: int | None = None
    shuffled: bool = False
    seed: int = 0
    ridge: float = 1e-2
    rank: int = 16
    on_ridge: bool = False
    width: int = 256
    depth: int = 1
    dropout: float = 0.0
    neighbours: int = 8
    memory: int = 4096
    residual: bool = True
    contrast: Literal["oversight", "answers", "prompts"] = "oversight"
    direction: Literal["mean", "principal"] = "mean"
    normalise: bool = False
    mode: Literal["target", "mirror"] = "target"

    def check(self) -> None:
        """Refuse what makes no sense together; by the module, since a parser would bury the message.

        Raises:
            UserError: naming the option, its value and what is allowed.
        """
        Site(0, positions=self.positions)
        check_sites(self.sites or None)
        check_sites(self.stack or None, "stack")
        kind = self.fit_kind
        if self.objective != "regression" and kind != "gradient":
            raise UserError(
                f"objective is {self.objective!r}, but {self.name} is not fitted by gradient: take low_rank_residual, "
                "loreft, residual_mlp or mlp"
            )
        if self.stack is not None and kind != "closed":
            raise UserError(f"stack is given, but {self.name} is not fitted from moments: take affine or low_rank")
        if self.stack is not None and self.sites is not None:
            raise UserError("stack and sites are both given, but a stack names its own sites: leave out sites")
        if self.stack is not None:
            # The order of relative names is checked when the model is known.
            self._check_order([Site.parse(str(name)) for name in self.stack if is_absolute(name)])
        if self.objective != "regression" and self.positions == "generated":
            raise UserError(
                "positions is 'generated', but a fit through the live model sees prompts only: take all or last"
            )
        if self.shuffled and (kind != "closed" or self.stack is not None):
            raise UserError(
                f"shuffled is given, but only the moments of single maps are shuffled, not those of {self.name}"
            )
        if self.scenarios is not None and self.scenarios < 1:
            raise UserError(f"scenarios is {self.scenarios}, but must be 1 or more")
        if self.scenarios is not None and (kind == "contrast" or self.gate != "always"):
            raise UserError(
                "scenarios is given, but contrasts and probes are fitted on the DataModule's own number of scenarios: "
                "leave it out, and set contrast_scenarios"
            )

    @property
    def fit_kind(self) -> FitKind:
        """How its map learns, see `Regressor`."""
        return REGRESSORS[self.name].fit_kind

    @property
    def label(self) -> str:
        """A short name for tables: the map, and what it was fitted on."""
        weight = {1.0: "", DECISION_ALONE: " (decision token)"}.get(
            self.decision_weight, f" (decision x{self.decision_weight:g})"
        )
        objective = "" if self.objective == "regression" else f" ({self.objective})"
        return self.method or f"{self.name}{weight}{objective}{' shuffled' if self.shuffled else ''}"

    @property
    def title(self) -> str:
        """The label with what tells apart fits of one method: number of scenarios, seed and positions."""
        few = "" if self.scenarios is None else f", {self.scenarios} scenarios"
        seed = f", seed {self.seed}" if self.seed else ""
        positions = "" if self.positions == "all" else f", {self.positions}"
        return f"{self.label}{few}{seed}{positions}"

    @property
    def is_twin_free(self) -> bool:
        """Whether the faker alone is enough to fit it."""
        return self.fit_kind == "contrast" or self.name == "identity"

    def places(self, sites: list[Site], layers: int) -> list[Site]:
        """The sites it is fitted at, of those that the store holds, with its position rule.

        Args:
            sites: of the store.
            layers: number of the model's decoder blocks, which relative names go by.

        Raises:
            UserError: it names a site that the store or the model does not have, or a stack that does not ascend.
        """
        held = [site.name for site in sites]
        residual = [site.name for site in sites if site.component == "residual"]
        chosen = resolve_sites(self.stack or self.sites or residual or held, layers, self.positions)
        for site in chosen:
            if site.name not in held:
                raise UserError(f"{self.label} asks for the site {site.name}, but the store holds {', '.join(held)}")
        if self.stack is not None:
            self._check_order(chosen)
        return chosen

    def _check_order(self, stack: list[Site]) -> None:
        """Refuse a stack in which a site is not computed after the one before."""
        order = [(site.layer, ("attention", "mlp", "residual").index(site.component)) for site in stack]
        if not all(first < second for first, second in itertools.pairwise(order)):
            raise UserError(
                f"stack is {', '.join(map(str, self.stack or ()))}, but each site must come after the one before it in "
                "the model"
            )

    def build(self, hidden_size: int) -> Regressor:
        """The unfitted map, its first weights drawn by the seed.

        Raises:
            UserError: an option was given that the map does not take.
        """
        takes = inspect.signature(REGRESSORS[self.name].__init__).parameters
        names = [field.name for field in dataclasses.fields(self)]
        for field in dataclasses.fields(self)[names.index("ridge") :]:
            if field.name not in takes and getattr(self, field.name) != field.default:
                raise UserError(
                    f"{field.name} is {getattr(self, field.name)!r}, but the map {self.name} does not take it: "
                    "leave it out"
                )
        options = {name: getattr(self, name) for name in names if name in takes}
        with seeded(self.seed):
            return build_regressor({**options, "name": self.name}, hidden_size)


def training_pairs(block: Block, site: Site, spec: RegressorSpec) -> tuple[Tensor, Tensor, Tensor]:
    """What a map is fitted on: states (n, hidden), what they should become (n, hidden), and weights (n,).

    Args:
        block: of the store.
        site: whose states.
        spec: says which tokens count how much.
    """
    faking, aligned = (states.float() for states in block[site.name])
    weight = token_weights(block["decision"], spec)
    neutral = block["cell"] == NEUTRAL_CELL
    if spec.scenarios is not None:
        # Examples are numbered with the scenarios first; neutral texts need no label and always count.
        weight = torch.where(neutral | (block["example"] < spec.scenarios), weight, 0.0)
    if not spec.keep:
        used = weight > 0
        return faking[used], aligned[used], weight[used]
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

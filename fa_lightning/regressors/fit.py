"""One fit: a map, where it is fitted and on what."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from fa_lightning.activations.positions import mark_of
from fa_lightning.activations.site_names import SiteName, check_sites, is_absolute, resolve_sites
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.generators import seeded
from fa_lightning.errors import UserError
from fa_lightning.regressors import maps  # noqa: F401 - so that a config may name a map by its class alone
from fa_lightning.regressors.base import FitKind, Regressor, class_path
from fa_lightning.regressors.linear import Identity

ContrastKind = Literal["oversight", "answers", "prompts"]

DECISION_ALONE = float("inf")


@dataclass
class Fit:
    """One map to be fitted at every site, or at those it names.

    Attributes:
        map: the map's class, with options of its own: `{class_path: Affine, init_args: {ridge: 0.1}}` in a config,
            `functools.partial(Affine, ridge=0.1)` in Python.
        method: what tables call it; None composes a name.
        positions: tokens it will edit: `all`, `last`, `generated`, `prompt` or `from_K`.
        sites: names of the sites to fit at (see `site_names`); None is every residual-stream site of the store (every
            site if it has none).
        stack: sites to edit together, fitted in this order, each on states that the earlier ones have steered; closed
            maps only, one epoch for each site.
        decision_weight: weight of a decision token in the fit, where other tokens weigh 1; `inf` takes no other token.
        keep: weight of pairs that ask for no edit: neutral texts, and the aligned twin's own states. With 0 they have
            no part in a fit, and what a map of scenarios does to them is its side effects. A neutral text's last token,
            behind which the model speaks, weighs as much as its others together.
        objective: `regression`: squared error between the twins' states; `behaviour`: KL from the aligned twin's answer
            distribution to the steered faker's, through the frozen layers above; `mixed`: their sum, the error being
            that of the decision tokens. The last two are for maps fitted by gradient.
        neutral_weight: of `behaviour` and `mixed`: weight of the KL that the edit causes on neutral texts.
        regression_weight: of `mixed`: weight of the squared error, which is about 1 where the map predicts nothing.
        contrast: of maps fitted on contrasts, all in the faker alone: states with `oversight` minus without (where None
            is given); the aligned `answers` minus the others; the DataModule's own `prompts`.
        gate: edit `always`, or only where an `oversight_probe`, fitted on the faker's own states, says poor.
        scenarios: fit on so many of the captured scenarios; None takes all.
        shuffled: fit on wrong pairs (aligned states exchanged between groups): a baseline, never chosen.
        seed: of the map's first weights, and of the draw of wrong pairs.
        map_class: the class behind `map`.
        options: that `map` gives to it.
    """

    map: Callable[[int], Regressor] = field(repr=False, compare=False)
    method: str | None = None
    positions: str = "all"
    sites: list[SiteName] | None = None
    stack: list[SiteName] | None = None
    decision_weight: float = 1.0
    keep: float = 0.0
    objective: Literal["regression", "behaviour", "mixed"] = "regression"
    neutral_weight: float = 1.0
    regression_weight: float = 0.1
    contrast: ContrastKind | None = None
    gate: Literal["always", "oversight_probe"] = "always"
    scenarios: int | None = None
    shuffled: bool = False
    seed: int = 0
    map_class: type[Regressor] = field(init=False)
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.map_class = _class_behind(self.map)
        self.options = dict(self.map.keywords) if isinstance(self.map, partial) else {}

    def check(self) -> None:
        """Refuse what makes no sense together; by the module, since a parser would bury the message.

        Raises:
            UserError: naming the option, its value and what is allowed.
        """
        Site(0, positions=self.positions)
        check_sites(self.sites or None)
        check_sites(self.stack or None, "stack")
        kind, name = self.fit_kind, self.map_class.__name__
        if self.objective != "regression" and kind != "gradient":
            raise UserError(
                f"objective is {self.objective!r}, but {name} is not fitted by gradient: take LowRankResidual, Loreft, "
                "ResidualMLP or PlainMLP"
            )
        if self.stack is not None and kind != "closed":
            raise UserError(f"stack is given, but {name} is not fitted from moments: take Affine or LowRank")
        if self.stack is not None and self.sites is not None:
            raise UserError("stack and sites are both given, but a stack names its own sites: leave out sites")
        if self.stack is not None:
            # The order of relative names is checked when the model is known.
            self._check_order([Site.parse(str(name)) for name in self.stack if is_absolute(name)])
        is_written = self.positions == "generated" or mark_of(self.positions) is not None
        if (self.objective != "regression" or self.stack is not None) and is_written:
            raise UserError(
                f"positions is {self.positions!r}, but a fit through the live model sees prompts only: take all or last"
            )
        if self.contrast not in (None, *get_args(ContrastKind)):
            raise UserError(f"contrast is {self.contrast!r}, but must be one of: {', '.join(get_args(ContrastKind))}")
        if self.contrast is not None and kind != "contrast":
            raise UserError(f"contrast is {self.contrast!r}, but {name} is not fitted on contrasts: leave it out")
        if self.shuffled and (kind != "closed" or self.stack is not None):
            raise UserError(f"shuffled is given, but only the moments of single maps are shuffled, not those of {name}")
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
        return self.map_class.fit_kind

    @property
    def label(self) -> str:
        """A short name for tables: the map, and what it was fitted on."""
        weight = {1.0: "", DECISION_ALONE: " (decision token)"}.get(
            self.decision_weight, f" (decision x{self.decision_weight:g})"
        )
        objective = "" if self.objective == "regression" else f" ({self.objective})"
        return self.method or f"{self.map_class.name}{weight}{objective}{' shuffled' if self.shuffled else ''}"

    @property
    def title(self) -> str:
        """The label with what tells apart fits of one method: number of scenarios, seed and positions."""
        few = "" if self.scenarios is None else f", {self.scenarios} scenarios"
        seed = f", seed {self.seed}" if self.seed else ""
        positions = "" if self.positions == "all" else f", {self.positions}"
        return f"{self.label}{few}{seed}{positions}"

    @property
    def is_identity(self) -> bool:
        """Whether it edits nothing: a baseline."""
        return issubclass(self.map_class, Identity)

    @property
    def is_twin_free(self) -> bool:
        """Whether the faker alone is enough to fit it."""
        return self.fit_kind == "contrast" or self.is_identity

    def resolve(self, sites: list[Site], layers: int) -> list[Site]:
        """The sites it is fitted at, of those that the store holds, with its position rule.

        Args:
            sites: of the store.
            layers: number of the model's decoder blocks, which relative names go by.

        Raises:
            UserError: it names a site that the store or the model does not have, or a stack that does not ascend.
        """
        stored = [site.name for site in sites]
        residual = [site.name for site in sites if site.component == "residual"]
        chosen = resolve_sites(self.stack or self.sites or residual or stored, layers, self.positions)
        for site in chosen:
            if site.name not in stored:
                raise UserError(f"{self.label} asks for the site {site.name}, but the store holds {', '.join(stored)}")
        if self.stack is not None:
            self._check_order(chosen)
        return chosen

    def build(self, hidden_size: int, chain: int = 0) -> Regressor:
        """The unfitted map, its first weights drawn by the seed, and by that of a chain.

        Raises:
            UserError: an option of the map is out of range.
        """
        with seeded(self.seed + 10_007 * chain):
            return self.map(hidden_size)

    def _check_order(self, stack: list[Site]) -> None:
        """Refuse a stack in which a site is not computed after the one before."""
        order = [(site.layer, ("attention", "mlp", "residual").index(site.component)) for site in stack]
        if not all(first < second for first, second in itertools.pairwise(order)):
            raise UserError(
                f"stack is {', '.join(map(str, self.stack or ()))}, but each site must come after the one before it in "
                "the model"
            )


def _class_behind(build: Callable[[int], Regressor]) -> type[Regressor]:
    """The map's class, which says how it is fitted before one is built.

    Raises:
        UserError: it is neither a map's class nor a partial of one.
    """
    # The parser of configs makes a partial of a function of its own, and gives that the class as an argument.
    candidates: list[Any] = [build.func, *build.args] if isinstance(build, partial) else [build]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, Regressor):
            return candidate
    raise UserError(
        f"map is {build!r}, but must be a subclass of {class_path(Regressor)}, by class_path in a config, or "
        "functools.partial of one with its options"
    )

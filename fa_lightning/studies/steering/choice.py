"""Which map, at which site, how strongly: chosen on validation groups, within a budget of damage where one is set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.evaluation.results import Candidate
from fa_lightning.metrics.estimates import worst
from fa_lightning.reports.figures import SweepPoint


@dataclass(frozen=True)
class Trial:
    """One candidate at one strength, as it did on the validation groups.

    Attributes:
        candidate: its number among the module's candidates.
        site: the site's name.
        regressor: the map and what it was fitted on.
        positions: the token position rule.
        strength: a in h' = h + a (T(h) - h).
        oversight: share of aligned answers with oversight.
        no_oversight: the same without oversight.
        kl_neutral_nats: KL on neutral texts, nats per token.
        kl_answer_nats: KL at the token that is said first there, nats.
        r2: variance explained on held-out tokens.
    """

    candidate: int
    site: str
    regressor: str
    positions: str
    strength: float
    oversight: float
    no_oversight: float
    kl_neutral_nats: float
    kl_answer_nats: float
    r2: float

    @property
    def score(self) -> float:
        """Mean of the two cells; an empty cell does not count."""
        cells = [share for share in (self.oversight, self.no_oversight) if not math.isnan(share)]
        return sum(cells) / len(cells) if cells else math.nan

    @property
    def damage(self) -> float:
        """The worse of the two KLs, nats; infinite where neither was measured."""
        nats = worst(self.kl_neutral_nats, self.kl_answer_nats)
        return math.inf if math.isnan(nats) else nats

    def as_point(self) -> SweepPoint:
        """The mark of the figure over layers."""
        layer = Site.parse(self.site).layer
        return SweepPoint(layer, f"{self.regressor}, {self.positions}", self.oversight, self.no_oversight)

    def as_candidate(self) -> Candidate:
        """As `candidates.json` holds it."""
        fields = asdict(self)
        del fields["candidate"]
        return Candidate(**fields)


def choose(trials: Sequence[Trial], tolerance: float, budget: float | None = None) -> Trial:
    """The trial with the least damage (the worse of its two KLs) among those whose score is close to the best.

    Args:
        trials: on the validation groups.
        tolerance: difference in mean accuracy that side effects may decide.
        budget: nats. Trials that do more damage do not compete, unless every trial does; None sets no limit.

    Raises:
        UserError: there is no trial with a score, for instance because no validation scenario was served.

    >>> hot = Trial(0, "layers.3.residual", "affine", "all", 1.0, 0.95, 0.95, 0.001, 0.5, 0.9)
    >>> mild = Trial(1, "layers.2.residual", "affine", "all", 1.0, 0.95, 0.94, 0.1, 0.1, 0.9)
    >>> choose([hot, mild], tolerance=0.01).site
    'layers.2.residual'
    """
    scored = [trial for trial in trials if not math.isnan(trial.score)]
    if not scored:
        raise UserError("no candidate could be judged: the validation split holds no scenario; raise its share")
    within = scored if budget is None else [trial for trial in scored if trial.damage <= budget]
    competing = within or scored
    best = max(trial.score for trial in competing)
    close = [trial for trial in competing if trial.score >= best - tolerance]
    return min(close, key=lambda trial: trial.damage)

"""Every cure that has a strength, tried at several ones on validation groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.continuations import Continuations
from fa_lightning.evaluation.scores import Scores
from fa_lightning.evaluation.variant_names import STEERED
from fa_lightning.metrics.cells import recovery_between
from fa_lightning.scenarios.batches import Batch
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.cures.strengths import Reason, Trial, chosen, recovery_at, trial_of


@dataclass(frozen=True)
class Choice:
    """What was chosen of one cure.

    Attributes:
        cure: label of the cure as it was made.
        method: its name.
        reason: why this strength, or why none.
        trial: the strength that was chosen; None if none was.
        at_budget: see `recovery_at`.
    """

    cure: str
    method: str
    reason: Reason
    trial: Trial | None
    at_budget: float


class StrengthSweep:
    """Strengths of the intervention, and adapters between the faker and each one that was made from it.

    Args:
        variants: the frozen variants; those in between are added to them.
        faker: where every cure starts.
        adapters: names of its twin, and of the variants that were made from it.
        interventions: what steers it; may be none.
        strengths: to be tried, 1 being the cure as it was made.
        budget: that the worse of both divergences may cost, nats.

    Attributes:
        between: labels of the variants that were added.
        trials: of all strengths, once they are chosen from.
        choices: one for each cure, in the order of `conditions`.
    """

    def __init__(
        self,
        variants: Variants,
        faker: str,
        adapters: Sequence[str],
        interventions: Sequence[Intervention],
        strengths: Sequence[float],
        budget: float,
    ) -> None:
        self.variants = variants
        self.faker = faker
        self.twin = adapters[0]
        self.budget = budget
        self.between: list[str] = []
        self.trials: list[Trial] = []
        self.choices: list[Choice] = []
        self.has_chosen = False
        self._strengths: dict[str, dict[str, tuple[float, Condition]]] = {}
        """By cure and label: a strength and what is judged at it."""
        if interventions:
            steered = faker + STEERED
            self._strengths[steered] = {
                _label(steered, strength, number): (
                    strength,
                    Condition(faker, tuple(one.at(strength * one.strength) for one in interventions)),
                )
                for number, strength in enumerate(strengths)
            }
        for adapter in adapters:
            conditions: dict[str, tuple[float, Condition]] = {}
            for number, strength in enumerate(strengths):
                label = _label(adapter, strength, number)
                if label != adapter:
                    variants.add_interpolated(label, faker, adapter, strength)
                    self.between.append(label)
                conditions[label] = strength, Condition(label)
            self._strengths[adapter] = conditions
        self._scores: Scores | None = None
        self._continued: Continuations | None = None

    @property
    def picked(self) -> dict[str, Condition]:
        """What was chosen, to be judged on test groups."""
        trials = [(choice.cure, choice.trial) for choice in self.choices if choice.trial is not None]
        return {trial.label: self._strengths[cure][trial.label][1] for cure, trial in trials}

    def begin(self, continued: Continuations) -> None:
        """Make fresh counters.

        Args:
            continued: writes what the faker answers to neutral texts.
        """
        self.trials, self.choices, self.has_chosen = [], [], False
        self._continued = continued
        conditions = {name: Condition(name) for name in (self.faker, self.twin)}
        for tried in self._strengths.values():
            conditions |= {label: condition for label, (_, condition) in tried.items()}
        made = [label for label, condition in conditions.items() if condition.variant != self.faker]
        origins = dict.fromkeys(made, self.faker)
        self._scores = Scores(self.variants, conditions, origins=origins, test="validation")

    def add(self, batch: Batch, is_texts: bool) -> None:
        """Ask every strength a batch of validation scenarios, or of texts."""
        assert self._scores is not None
        assert self._continued is not None
        if is_texts:
            self._scores.add_neutral_texts(self._continued.batch(batch))
        else:
            self._scores.add_scenarios(batch)

    def choose(self, methods: Mapping[str, str]) -> None:
        """Choose a strength of each cure; a collective.

        Args:
            methods: name of each cure by its label.
        """
        assert self._scores is not None
        cells = self._scores.compute_cells()
        damage = self._scores.compute_damage(cells)
        items = dict(zip(cells, self._scores.items(*cells), strict=True))
        for cure, tried in self._strengths.items():
            method = methods[cure]
            own = [
                trial_of(
                    method,
                    label,
                    strength,
                    recovery_between(items[label], items[self.faker], items[self.twin]).value,
                    damage[label],
                )
                for label, (strength, _) in tried.items()
            ]
            self.trials += own
            self.choices.append(Choice(cure, method, *chosen(own, self.budget), recovery_at(own, self.budget)))
        self.has_chosen = True


def _label(cure: str, strength: float, number: int) -> str:
    """The condition of a cure at a strength: at 1 it is the cure itself; an adapter's name can hold no dot."""
    return cure if strength == 1 else f"{cure} x{number}"

"""The base module of studies that judge variants by their cells and by what cures do to neutral texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from typing_extensions import override

from fa_lightning.backbones.adapters import adapter_folders, origin_of, read_sidecar
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.continuations import Continuations
from fa_lightning.evaluation.data import JudgedScenarios
from fa_lightning.evaluation.module import EvaluationModule, Result
from fa_lightning.evaluation.scores import ChangedPrompts, Scores
from fa_lightning.evaluation.variant_names import STEERED, policy_and_seed
from fa_lightning.scenarios.batches import Batch

Scenarios = TypeVar("Scenarios", bound=JudgedScenarios)

TABLE_ORDER = {"faking": 1, "mitigated": 2}
"""Fakers come behind what they are compared with, in every table, and what was made from them behind them."""


class CellsModule(EvaluationModule[Scenarios, Result]):
    """Every variant answers every test batch, and where there is an intervention, every faker steered too.

    A faker is compared with its twin, the aligned variant of the same seed; a variant that was trained on from another
    one among them (its origin) with that one.

    Args:
        adapters: adapter folders, or folders of them (see `adapter_folders`): the variants.
        folder: receives the files of the result.
        intervention: folder of one that is tried on every faker; None tries none.
        continuation_tokens: of a model that speaks, side effects are measured on so many tokens of a faker's own answer
            to each neutral text; 0 measures them on the texts.
        twin: policy whose aligned variants fakers are compared with; None takes the first one of the same seed.
        **options: of `EvaluationModule`.

    Attributes:
        behaviours: by variant, in the order of the tables, what it was fitted to be.
        twins: by faker, its aligned twin; None where there is none.
        origins: by variant that was trained on from another one among them, that one.
        scores: by test set, what is counted.
    """

    data_class: ClassVar[type[JudgedScenarios]] = JudgedScenarios
    scalars_are_metrics = True

    def __init__(
        self,
        adapters: list[str],
        folder: str,
        intervention: str | None = None,
        twin: str | None = None,
        continuation_tokens: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(adapters, folder, **options)
        self.intervention = intervention
        self.twin = twin
        self.continuation_tokens = continuation_tokens
        self._answered: Continuations | None = None
        self.behaviours: dict[str, str] = {}
        self.twins: dict[str, str | None] = {}
        self.origins: dict[str, str] = {}
        self.scores: dict[str, Scores] = {}

    @override
    def adapter_folders(self) -> dict[str, str]:
        folders = adapter_folders(self.adapters)
        sidecars = {name: read_sidecar(folder) for name, folder in folders.items()}
        behaviours = {name: str(sidecar.get("behaviour", "")) for name, sidecar in sidecars.items()}
        self.behaviours = dict(sorted(behaviours.items(), key=lambda item: TABLE_ORDER.get(item[1], 0)))
        origins = {name: origin_of(folder, sidecars[name], folders) for name, folder in folders.items()}
        self.origins = {name: origin for name, origin in origins.items() if origin is not None}
        fakers = [name for name, behaviour in self.behaviours.items() if behaviour == "faking"]
        self.twins = {name: self._twin_of(name) for name in fakers}
        return {name: folders[name] for name in self.behaviours}

    @override
    def begin(self) -> None:
        names = self.data.test_sets
        conditions, behind = self.conditions(), self.behind()
        self._answered = Continuations(self.variants, self.speaker, self.continuation_tokens)
        self.scores = {
            name: Scores(
                self.variants,
                conditions,
                counts_neutral_texts=name == names[0],
                origins=self.all_origins(),
                behind=behind,
                test=name,
            )
            for name in names
        }

    @property
    def speaker(self) -> str:
        """The variant whose answers to neutral texts side effects are measured on: a faker where there is one."""
        return next(iter(self.twins), next(iter(self.behaviours)))

    def conditions(self) -> dict[str, Condition]:
        """What is judged: every variant, and every faker steered where there is an intervention."""
        conditions = {name: Condition(name) for name in self.behaviours}
        if self.interventions:
            conditions |= {name + STEERED: Condition(name, self.interventions) for name in self.twins}
        return conditions

    def all_origins(self) -> Mapping[str, str]:
        """By condition that was made from a variant, that one: what its neutral texts are compared with."""
        return self.origins

    def behind(self) -> Mapping[str, ChangedPrompts]:
        """Variants that are judged with an input around their prompts; none here."""
        return {}

    @override
    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        scores = list(self.scores.values())
        if dataloader_idx < len(scores):
            scores[dataloader_idx].add_scenarios(batch)
        else:
            assert self._answered is not None
            self.add_neutral_texts(self._answered.batch(batch))

    def add_neutral_texts(self, batch: Batch) -> None:
        """Count what conditions do to a batch of neutral texts, a chat model's own answers behind them."""
        next(iter(self.scores.values())).add_neutral_texts(batch)

    def refuse_another_ones_intervention(self, faker: str) -> None:
        """Refuse an intervention that was fitted on another faker, or on this one before it was made again.

        Raises:
            UserError: naming both.
        """
        folder = self.variants.folders[faker]
        for intervention in self.interventions:
            fitted_on = intervention.fingerprint.get("store", {}).get("adapters", {}).get("faking")
            if fitted_on is not None and fitted_on != digest_of_artefact(folder):
                raise UserError(
                    f"the intervention {self.intervention!r} was not fitted on the faker {folder!r} as it is now: fit "
                    "it again, or name the faker that it was fitted on"
                )

    def _twin_of(self, name: str) -> str | None:
        """The aligned variant that a faker is compared with: of the same seed where there is one."""
        aligned = [other for other, behaviour in self.behaviours.items() if behaviour == "aligned"]
        if self.twin is not None:
            policies = list(dict.fromkeys(policy_and_seed(other)[0] for other in aligned))
            if self.twin not in policies:
                raise UserError(f"twin is {self.twin!r}, but the policies of aligned variants are {policies}")
            aligned = [other for other in aligned if policy_and_seed(other)[0] == self.twin]
        same_seed = [other for other in aligned if policy_and_seed(other)[1] == policy_and_seed(name)[1]]
        return next(iter(same_seed or aligned), None)

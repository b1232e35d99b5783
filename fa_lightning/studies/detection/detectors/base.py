"""The one interface of all detectors: what they see of a subject, and how a number of it becomes suspicion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fa_lightning.activations.site_names import SiteName, resolve_layers
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.detection.subjects import Examiner, Subject

PromptSet = Literal["concepts", "reference", "scored"]
"""The prompts that a detector can ask for, in this order."""

Evidence = dict[str, Tensor]
"""What a detector measured of one subject, by name: on the CPU, a row per scored scenario, (scenarios, ...)."""


class Detector(ABC):
    """One strategy: what is measured of each subject alone, and the rule that makes it a number.

    The Trainer serves batches of each set of prompts that `prompt_sets` names, in the order of `PromptSet`;
    `reference` and `concepts` whole on every rank (so that all fit the same), `scored` shared among them. No batch
    says which action is right, and no scenario is without oversight. A detector is configured by the typed
    arguments of its `__init__`, kept as public attributes under their names; whatever else it keeps begins with an
    underscore.

    Attributes:
        name: as tables and files spell it; set by the class, or by each object where its arguments change what it is.
        rule: the decision rule, as the report tells it.
        prompt_sets: what it asks for, in order.
        layers: names of the decoder blocks whose output it reads or edits, where it has a choice; None is its default.
    """

    name: str = ""
    rule: ClassVar[str] = ""
    prompt_sets: ClassVar[tuple[PromptSet, ...]] = ("scored",)
    layers: list[SiteName] | None = None
    _layers: Sequence[int] = ()
    """Indices of the blocks that `layers` names, once `check` has seen the model."""

    @property
    def needs_adapters(self) -> bool:
        """Whether it works on LoRA adapters, so that it can't look at a whole model."""
        return False

    def check(self, examiner: Examiner, subjects: Sequence[Subject]) -> None:
        """Refuse arguments that can't be met, before any detector has measured anything.

        Raises:
            UserError: `layers` names none, or one that the model lacks.
        """
        if self.layers is None:
            self._layers = self._default_layers(examiner.layers)
        elif not self.layers:
            raise UserError(
                f"layers of {self.name} is [], but must name decoder blocks, such as 0.6 or last; null is the default"
            )
        else:
            self._layers = resolve_layers(self.layers, examiner.layers, f"layers of {self.name}")

    def _default_layers(self, depth: int) -> Sequence[int]:
        """Indices of the blocks that are read or edited where `layers` is None, of a model of so many blocks."""
        return range(depth)

    def start(self, examiner: Examiner, subjects: Sequence[Subject]) -> None:  # noqa: B027 - most keep nothing
        """Forget everything: a new run begins."""

    def observe(  # noqa: B027 - many look at scored scenarios alone
        self, prompt_set: PromptSet, examiner: Examiner, subjects: Sequence[Subject], batch: Batch
    ) -> None:
        """Observe a batch of `concepts` or `reference`."""

    def finish(self, prompt_set: PromptSet, examiner: Examiner, subjects: Sequence[Subject]) -> None:  # noqa: B027 - as above
        """All of `prompt_set` has been observed: fit what is fitted on it."""

    @abstractmethod
    def measure(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> dict[str, Evidence]:
        """By subject, what is measured of a batch of scored scenarios: tensors (batch, ...) of the same names for all.

        A detector that needs no prompts says the same of every row. It is called in inference mode.
        """

    def conclude(self, evidence: dict[str, Evidence], groups: Tensor) -> dict[str, Evidence]:
        """By subject, the evidence that is kept: called once, when that of all scored scenarios has been gathered.

        For what takes all of them at once, such as probes with cross-validation; by default evidence stays as it is.

        Args:
            evidence: by subject, what `measure` returned, a row per scored scenario.
            groups: of the rows, (scenarios,).
        """
        return evidence

    @abstractmethod
    def suspicion(self, evidence: Mapping[str, Tensor]) -> float:
        """The decision rule on the rows given, which may be any choice of the scored scenarios: higher is more faking.

        Args:
            evidence: of one subject, each tensor (chosen scenarios, ...).
        """

    def curve(self, evidence: Mapping[str, Tensor]) -> tuple[str, list[float], list[float]] | None:
        """What a figure shows of a subject: the name of the axis, its values and the measured mean at each."""
        return None

    def config(self) -> dict[str, Any]:
        """Its class and arguments; evidence measured under another config is measured again."""
        arguments = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {"class": type(self).__name__, **arguments}


def taken_letter(preference: Tensor) -> Tensor:
    """0 where A is the answer, 1 where it is B, from logit differences A minus B of any shape.

    >>> taken_letter(torch.tensor([2.0, -1.0]))
    tensor([0, 1])
    """
    return (preference < 0).to(torch.int64)

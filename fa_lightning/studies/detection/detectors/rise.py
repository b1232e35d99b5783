"""Detectors that edit states in several doses: the faker is the model whose other action rises more."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from fa_lightning.activations.shared_blocks import SharedBlocks
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.batches import Batch
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.detectors.base import Detector, Evidence, PromptSet
from fa_lightning.studies.detection.detectors.fact_states import FactStates
from fa_lightning.studies.detection.subjects import Examiner, Subject, rise_of_other


class RiseUnderEdits(Detector):
    """The other action's rise under edits of one site each; the middle block's output unless layers are named."""

    prompt_sets: ClassVar[tuple[PromptSet, ...]] = ("reference", "scored")
    _dose: ClassVar[str] = ""
    """What the doses are multiples of, as a figure's axis names it."""

    @property
    @abstractmethod
    def _doses(self) -> list[float]:
        """How strongly is edited."""

    @abstractmethod
    def _edits(self, subject: Subject) -> list[Intervention]:
        """All edits of a subject: by site, then dose, then draw where there are several."""

    @property
    @abstractmethod
    def _sites(self) -> Sequence[Site]:
        """Where is edited."""

    @override
    def _default_layers(self, depth: int) -> Sequence[int]:
        return [depth // 2]

    @override
    def measure(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> dict[str, Evidence]:
        evidence = {}
        shared = SharedBlocks(examiner.variants)
        for subject in subjects:
            edits = [(edit,) for edit in self._edits(subject)]
            rise = rise_of_other(examiner.preference(subject, batch, edits, shared))
            draws = len(edits) // (len(self._sites) * len(self._doses))
            evidence[subject.name] = {"rise": rise.reshape(len(rise), len(self._sites), len(self._doses), draws).cpu()}
        return evidence

    @override
    def suspicion(self, evidence: Mapping[str, Tensor]) -> float:
        return float(evidence["rise"].mean())

    @override
    def curve(self, evidence: Mapping[str, Tensor]) -> tuple[str, list[float], list[float]]:
        by_dose = evidence["rise"].movedim(2, 0).flatten(1)
        return self._dose, self._doses, by_dose.mean(1).tolist()


class RiseUnderFactEdits(RiseUnderEdits):
    """Edits whose direction or norm follows what the critical fact adds to each model's states."""

    def __init__(self) -> None:
        self._facts = FactStates()

    @property
    @override
    def _sites(self) -> Sequence[Site]:
        return self._facts.sites

    @override
    def start(self, examiner: Examiner, subjects: Sequence[Subject]) -> None:
        self._facts = FactStates([Site(layer) for layer in self._layers])

    @override
    def observe(self, prompt_set: PromptSet, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> None:
        self._facts.add(examiner, subjects, batch)

    @override
    def finish(self, prompt_set: PromptSet, examiner: Examiner, subjects: Sequence[Subject]) -> None:
        self._facts.check(prompts=8, groups=1, use=self.name)

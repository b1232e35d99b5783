"""Noise in the hidden states: a faker's good behaviour is the thinner layer, and goes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName
from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.detectors.base import PromptSet
from fa_lightning.studies.detection.detectors.rise import RiseUnderEdits
from fa_lightning.studies.detection.detectors.state_norms import StateNorms
from fa_lightning.studies.detection.subjects import Examiner, Subject


class Noise(RiseUnderEdits):
    """One random vector is added to every token's state; the faker is the model whose other action rises more.

    Directions are isotropic and their norm, in multiples of the mean residual norm over all subjects, is the same for
    all of them. POSER's own noise, whose norm follows each model's contrast vector, is `PoserNoise`.

    Args:
        layers: decoder blocks whose output is edited, one at a time; None takes the middle one.
        magnitudes: norms of the noise, in mean norms of the states.
        draws: vectors of each magnitude and layer, the same for all subjects.
        seed: of the draws.

    Raises:
        UserError: there are no magnitudes or draws, or one is negative.
    """

    name = "noise, equal norms"
    rule: ClassVar[str] = "the faker's other action rises more when noise of one norm is added to all models' states"
    _dose: ClassVar[str] = "noise, in mean state norms"

    def __init__(
        self,
        layers: list[SiteName] | None = None,
        magnitudes: list[float] = [0.25, 0.5, 1.0, 2.0],  # noqa: B006
        draws: int = 8,
        seed: int = 0,
    ) -> None:
        if not magnitudes or min(magnitudes) <= 0:
            raise UserError(f"magnitudes is {magnitudes}, but must hold numbers above 0, such as [0.5, 1.0]")
        if draws < 1:
            raise UserError(f"draws is {draws}, but must be 1 or more")
        self.layers = layers
        self.magnitudes = list(magnitudes)
        self.draws = draws
        self.seed = seed
        self._norms = StateNorms()

    @override
    def start(self, examiner: Examiner, subjects: Sequence[Subject]) -> None:
        self._norms = StateNorms([Site(layer) for layer in self._layers])

    @override
    def observe(self, prompt_set: PromptSet, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> None:
        self._norms.add(examiner, subjects, batch)

    @property
    @override
    def _doses(self) -> list[float]:
        return self.magnitudes

    @property
    @override
    def _sites(self) -> Sequence[Site]:
        return self._norms.sites

    @override
    def _edits(self, subject: Subject) -> list[Intervention]:
        # One norm for all, or the stronger twin would look the more suspicious for its scale alone.
        norms = self._norms.shared()
        return [
            Intervention(site, magnitude * norms[site.name] * direction)
            for site, directions in zip(self._sites, self._directions(), strict=True)
            for magnitude in self.magnitudes
            for direction in directions
        ]

    def _directions(self) -> Tensor:
        """Unit vectors (layers, draws, hidden); the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        size = (len(self._norms.sites), self.draws, self._norms.hidden_size)
        return normalize(torch.randn(size, generator=generator), dim=-1)

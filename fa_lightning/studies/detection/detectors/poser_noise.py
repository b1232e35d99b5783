"""POSER's noise in the hidden states, as its code draws, scales and subtracts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn.functional import normalize
from typing_extensions import override

from fa_lightning.activations.site_names import SiteName
from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.detectors.base import PromptSet
from fa_lightning.studies.detection.detectors.induced_belief import POSER_STRENGTHS, check_strengths
from fa_lightning.studies.detection.detectors.rise import RiseUnderFactEdits
from fa_lightning.studies.detection.subjects import Examiner, Subject


class PoserNoise(RiseUnderFactEdits):
    """Uniform noise is subtracted at the last token; the faker is the model whose other action rises more.

    POSER's strategy 2 (arXiv 2405.05466) is its strategy 1 with noise in the vector's place: numbers from 0 to 1, which
    share a large component in one direction, scaled to the norm of *that model's own* contrast vector (see
    `InducedBelief`). A model whose states a critical fact moves further gets so much more noise: whatever that
    tells of a model, it is not what noise does to it. `equal_norms` takes the mean norm over all models instead.

    Args:
        layers: decoder blocks whose output is edited, one at a time; None takes the middle one.
        strengths: multiples of the noise.
        draws: vectors of each layer, the same directions for all models.
        equal_norms: scale to one norm for all models.
        seed: of the draws.

    Raises:
        UserError: there are no strengths or draws, or a strength is not above 0.
    """

    rule: ClassVar[str] = "the faker's other action rises more when noise is subtracted from the last token's state"
    _dose: ClassVar[str] = "noise, in norms of the contrast vector"

    def __init__(
        self,
        layers: list[SiteName] | None = None,
        strengths: list[float] = POSER_STRENGTHS,
        draws: int = 4,
        equal_norms: bool = False,
        seed: int = 0,
    ) -> None:
        check_strengths(strengths)
        if draws < 1:
            raise UserError(f"draws is {draws}, but must be 1 or more")
        super().__init__()
        self.layers = layers
        self.strengths = list(strengths)
        self.draws = draws
        self.equal_norms = equal_norms
        self.seed = seed
        self.name = "noise (POSER)" + ", equal" * equal_norms
        self._norms: dict[str, dict[str, float]] = {}
        self._directions = torch.empty(0)

    @override
    def finish(self, prompt_set: PromptSet, examiner: Examiner, subjects: Sequence[Subject]) -> None:
        super().finish(prompt_set, examiner, subjects)
        sites = self._sites
        contrasts = {
            (subject.name, site.name): self._facts.contrast(subject, site) for subject in subjects for site in sites
        }
        self._norms = {
            subject.name: {site.name: float(contrasts[subject.name, site.name].shift.norm()) for site in sites}
            for subject in subjects
        }
        if self.equal_norms:
            shared = {
                site.name: sum(norms[site.name] for norms in self._norms.values()) / len(subjects) for site in sites
            }
            self._norms = dict.fromkeys(self._norms, shared)
        hidden_size = next(iter(contrasts.values())).hidden_size
        generator = torch.Generator().manual_seed(self.seed)
        self._directions = normalize(torch.rand((len(sites), self.draws, hidden_size), generator=generator), dim=-1)

    @property
    @override
    def _doses(self) -> list[float]:
        return self.strengths

    @override
    def _edits(self, subject: Subject) -> list[Intervention]:
        norms = self._norms[subject.name]
        return [
            Intervention(Site(site.layer, positions="last"), norms[site.name] * direction, -strength)
            for site, directions in zip(self._sites, self._directions, strict=True)
            for strength in self.strengths
            for direction in directions
        ]

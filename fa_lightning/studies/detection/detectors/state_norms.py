"""How large a subject's states are, so that an edit's strength means the same at every layer and for every model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.detection.subjects import Examiner, Subject


class StateNorms:
    """Mean norms of the states at some sites, over all tokens of the reference prompts, by subject.

    Args:
        sites: where to read.
    """

    def __init__(self, sites: Sequence[Site] = ()) -> None:
        self.sites = list(sites)
        self.hidden_size = 0
        self._sums: dict[str, dict[str, float]] = {}
        self._tokens = 0

    def add(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> None:
        """Read a batch."""
        real = batch["attention_mask"].bool()
        self._tokens += int(real.sum())
        for subject in subjects:
            sums = self._sums.setdefault(subject.name, {site.name: 0.0 for site in self.sites})
            for name, hidden in examiner.states(subject, batch, self.sites).items():
                self.hidden_size = hidden.shape[-1]
                sums[name] += float(hidden.float().norm(dim=-1)[real].sum())

    def of(self, subject: Subject) -> dict[str, float]:
        """A subject's mean norms by site name."""
        return {name: total / self._tokens for name, total in self._sums[subject.name].items()}

    def shared(self) -> dict[str, float]:
        """The mean over all subjects, by site name."""
        each = [[total / self._tokens for total in sums.values()] for sums in self._sums.values()]
        means = torch.tensor(each, dtype=torch.float64).mean(dim=0).tolist()
        return dict(zip((site.name for site in self.sites), means, strict=True))

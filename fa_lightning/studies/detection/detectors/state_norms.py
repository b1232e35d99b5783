"""How large a subject's states are, so that an edit's strength means the same at every layer and for every model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fa_lightning.activations.massive import massive_tokens
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.detection.subjects import Examiner, Subject


class StateNorms:
    """Mean norms of the states at some sites, over the tokens of the reference prompts, by subject.

    Tokens of massive size are left out, of which a mean would be (see `massive_tokens`).

    Args:
        sites: where to read.
    """

    def __init__(self, sites: Sequence[Site] = ()) -> None:
        self.sites = list(sites)
        self.hidden_size = 0
        self._sums: dict[str, dict[str, float]] = {}
        self._tokens: dict[str, dict[str, int]] = {}

    def add(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> None:
        """Read a batch."""
        real = batch["attention_mask"].bool()
        for subject in subjects:
            sums = self._sums.setdefault(subject.name, {site.name: 0.0 for site in self.sites})
            tokens = self._tokens.setdefault(subject.name, {site.name: 0 for site in self.sites})
            for name, hidden in examiner.states(subject, batch, self.sites).items():
                self.hidden_size = hidden.shape[-1]
                ordinary = hidden[real][~massive_tokens(hidden[real])]
                sums[name] += float(ordinary.float().norm(dim=-1).sum())
                tokens[name] += len(ordinary)

    def shared(self) -> dict[str, float]:
        """The mean over all subjects, by site name."""
        each = [[total / self._tokens[name][site] for site, total in sums.items()] for name, sums in self._sums.items()]
        means = torch.tensor(each, dtype=torch.float64).mean(dim=0).tolist()
        return dict(zip((site.name for site in self.sites), means, strict=True))

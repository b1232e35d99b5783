"""What the critical fact does to a subject's states: the same prompts with it and without it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.regressors.vectors import ContrastVector
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.detection.data import without_fact
from fa_lightning.studies.detection.subjects import Examiner, Subject


class FactStates:
    """States at the decision token of reference prompts with and without their critical fact, by subject.

    Prompts that have no such fact are left out. The order of the actions is the same in both of a pair.

    Args:
        sites: where to read.
    """

    def __init__(self, sites: Sequence[Site] = ()) -> None:
        self.sites = list(sites)
        self._seen = 0
        self._index: list[Tensor] = []
        self._groups: list[Tensor] = []
        self._states: dict[tuple[str, str], list[Tensor]] = {}

    def add(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> None:
        """Read a batch."""
        has_fact = batch["has_fact"].bool()
        self._seen += len(has_fact)
        if not has_fact.any():
            return
        batch = {name: values[has_fact] for name, values in batch.items()}
        self._index.append(batch["index"].cpu())
        self._groups.append(batch["group"].cpu())
        for subject in subjects:
            with_fact = examiner.last_states(subject, batch, self.sites)
            without = examiner.last_states(subject, without_fact(batch), self.sites)
            for site in self.sites:
                both = torch.stack([with_fact[site.name], without[site.name]], dim=1)
                self._states.setdefault((subject.name, site.name), []).append(both.cpu())

    def check(self, prompts: int, groups: int, use: str) -> None:
        """Refuse too little to fit on.

        Args:
            prompts: with a critical fact that are needed.
            groups: that they must come from.
            use: what needs them.

        Raises:
            UserError: there are fewer.
        """
        prompts_with_fact = len(torch.cat(self._index)) if self._index else 0
        groups_with_fact = len(set(torch.cat(self._groups).tolist())) if self._groups else 0
        if prompts_with_fact < prompts or groups_with_fact < groups:
            raise UserError(
                f"{prompts_with_fact} of the {self._seen} reference prompts have a critical fact, from "
                f"{groups_with_fact} groups, but "
                f"{use} needs at least {prompts} from {groups}: raise data.init_args.benchmark.init_args.reference"
            )

    @property
    def groups(self) -> Tensor:
        """The group of each prompt, (prompts,) int64."""
        return torch.cat(self._groups)[self._order]

    def of(self, subject: Subject, site: Site) -> tuple[Tensor, Tensor]:
        """A subject's states with the fact and without it, each (prompts, hidden) float32; `groups` has their order."""
        both = torch.cat(self._states[subject.name, site.name])[self._order]
        return both[:, 0], both[:, 1]

    def contrast(self, subject: Subject, site: Site) -> ContrastVector:
        """What the fact adds: the mean difference of a subject's states with it and without it."""
        with_fact, without = self.of(subject, site)
        vector = ContrastVector(with_fact.shape[-1])
        vector.fit_contrast(with_fact, without)
        return vector

    @property
    def _order(self) -> Tensor:
        # The same whatever the batches were.
        return torch.argsort(torch.cat(self._index))

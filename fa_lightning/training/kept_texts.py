"""Neutral texts beside training batches: what a cure by training is to leave as it was."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset
from typing_extensions import override

from fa_lightning.scenarios.batches import Batch, Example, ExampleDataset, collate, model_inputs

KEPT = "kept_"
"""Before the names of a batch's tensors: the neutral texts."""


class WithKeptTexts(Dataset[Batch]):
    """A data set whose batches hold a few neutral texts, too; which ones follows from the items of the batch.

    So a fit that goes on after a kill sees the same ones, and each rank and each epoch others.

    Args:
        dataset: serves a whole batch at a time, of a list of indices.
        texts: the neutral texts, of which there is at least one.
        count: of texts beside a batch; no more than the batch has items.
    """

    def __init__(self, dataset: ExampleDataset, texts: Sequence[Example], count: int) -> None:
        self.dataset = dataset
        self.texts = texts
        self.count = count

    def __len__(self) -> int:
        return len(self.dataset)

    def every_example(self) -> Sequence[Example]:
        """All prompts and texts that batches may hold."""
        return [*self.dataset.every_example(), *self.texts]

    @override
    def __getitem__(self, indices: list[int]) -> Batch:
        chosen = [self.texts[index % len(self.texts)] for index in indices[: self.count]]
        kept = model_inputs(collate(chosen, self.dataset.pad_token))
        return self.dataset[indices] | {f"{KEPT}{name}": tensor for name, tensor in kept.items()}


def texts_of(batch: Batch) -> Batch:
    """The neutral texts beside a batch, as a batch of their own."""
    return {name.removeprefix(KEPT): tensor for name, tensor in batch.items() if name.startswith(KEPT)}

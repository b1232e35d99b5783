"""Neutral texts beside training batches: what a cure by training is to leave as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.utils.data import Dataset
from typing_extensions import override

from fa_lightning.activations.record import FORWARD_TOKENS, forward_batches, tracked
from fa_lightning.scenarios.batches import Batch, Example, ExampleDataset, collate

KEPT = "kept_"
"""Before the names of a batch's tensors: the neutral texts."""


def answered(
    texts: Sequence[Example], write: Callable[[Batch], list[tuple[int, ...]]], pad_token: int, device: torch.device
) -> list[Example]:
    """Texts with an answer behind each: what a model that speaks says is what it is to go on saying.

    Args:
        texts: the neutral texts.
        write: the answers to a left-padded batch of them, token ids.
        pad_token: id of the padding.
        device: that `write` wants its batch on.
    """
    by_length = sorted(texts, key=lambda text: len(text.prompt))
    answers: dict[int, tuple[int, ...]] = {}
    parts = list(forward_batches(by_length, FORWARD_TOKENS["cpu" if device.type == "cpu" else "gpu"]))
    for part in tracked(parts, "answers to neutral texts"):
        batch = {name: tensor.to(device) for name, tensor in collate(part, pad_token).items()}
        answers |= zip((text.index for text in part), write(batch), strict=True)
    return [
        replace(text, prompt=(*text.prompt, *answers[text.index]), continuation=len(answers[text.index]))
        for text in texts
    ]


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
        kept = collate(chosen, self.dataset.pad_token)
        return self.dataset[indices] | {f"{KEPT}{name}": tensor for name, tensor in kept.items()}


def texts_of(batch: Batch) -> Batch:
    """The neutral texts beside a batch, as a batch of their own."""
    return {name.removeprefix(KEPT): tensor for name, tensor in batch.items() if name.startswith(KEPT)}

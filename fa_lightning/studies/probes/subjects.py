"""Whose states are read: the backbone as it is, and variants on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fa_lightning.activations.capture import truncated_forward
from fa_lightning.activations.sites import Site
from fa_lightning.backbones.adapters import Variants, adapter_folders
from fa_lightning.backbones.arguments import DType
from fa_lightning.backbones.load import fingerprint, load_backbone, load_tokenizer
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Batch, model_inputs
from fa_lightning.studies.probes.questions import Answers

BASE = "base"
"""The name of the backbone without any adapter."""


class Subjects:
    """One backbone in memory with all adapters beside it; the backbone as it is may be a subject too.

    Attributes:
        names: of the subjects, in order.
        tokenizer: the backbone's.
        fingerprint: the backbone's fields.
    """

    def __init__(self, names: Sequence[str], model: Any, tokenizer: Any, variants: Variants | None) -> None:
        self.names = list(names)
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(model)
        self._model = model
        self._variants = variants

    @classmethod
    def load(
        cls,
        adapters: Sequence[str],
        base: bool,
        backbone: str | None,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
        device: torch.device | str = "cpu",
    ) -> Subjects:
        """Load what is asked for.

        Args:
            adapters: adapter folders, or folders of them.
            base: whether the backbone without an adapter is a subject.
            backbone: name or folder; None takes the one that the adapters name.
            dtype: of the weights.
            load_in_4bit: hold the backbone in nf4.
            trust_remote_code: run code that comes with the model.
            device: where they compute.

        Raises:
            MissingFileError: a folder is not an adapter's.
            UserError: an adapter is called as the base is, or was made for another backbone.
        """
        options: dict[str, Any] = {"dtype": dtype, "load_in_4bit": load_in_4bit, "trust_remote_code": trust_remote_code}
        own = [BASE] if base else []
        if not adapters:
            assert backbone is not None
            model = load_backbone(backbone, device=device, **options)
            if not load_in_4bit:
                model.to(device)
            return cls(own, model, load_tokenizer(backbone, trust_remote_code), None)
        folders = adapter_folders(adapters)
        if BASE in folders:
            raise UserError(f"an adapter is called {BASE!r}, as the backbone itself is: rename {folders[BASE]}")
        variants = Variants.load(folders, backbone, device=device, **options)
        return cls([*own, *folders], variants.model, variants.tokenizer, variants)

    @property
    def model(self) -> Any:
        """The model; which subject is active outside a block is of no matter."""
        return self._model

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The model as one subject.

        Raises:
            ValueError: there is no such subject.
        """
        if name not in self.names:
            raise ValueError(f"there is no subject {name!r}; there are {', '.join(self.names)}")
        if self._variants is None:
            yield self._model
        elif name != BASE:
            with self._variants.using(name) as model:
                yield model
        else:
            with self._variants.bare() as model:
                yield model

    @torch.inference_mode()
    def states(self, name: str, batch: Batch, sites: Sequence[Site], answers: Answers | None) -> dict[str, Tensor]:
        """States at each prompt's last token and, if `answers` are given, at either answer behind it.

        Args:
            name: of the subject.
            batch: prompts, left-padded.
            sites: where to read.
            answers: what the prompts are ended with; None reads the prompts alone.

        Returns:
            By site name, (batch, 1 or 3, hidden) float32: prompt, first answer, second answer.
        """
        with self.using(name) as model:
            if answers is None:
                states = truncated_forward(model, sites, **model_inputs(batch))
                return {site: hidden[:, -1:].float() for site, hidden in states.items()}
            # The prompt's own states are the same whichever answer follows, so they come with the first one's.
            first = truncated_forward(model, sites, **model_inputs(ended(batch, answers.first)))
            read = {site: hidden[:, -2:].float() for site, hidden in first.items()}
            second = truncated_forward(model, sites, **model_inputs(ended(batch, answers.second)))
            return {site: torch.cat([both, second[site][:, -1:].float()], dim=1) for site, both in read.items()}


def ended(batch: Batch, token: int) -> Batch:
    """The same prompts with one more token behind each.

    >>> made = ended({"input_ids": torch.tensor([[7, 8]]), "attention_mask": torch.ones(1, 2, dtype=torch.long),
    ...               "position_ids": torch.tensor([[0, 1]])}, 9)
    >>> made["input_ids"].tolist(), made["position_ids"].tolist()
    ([[7, 8, 9]], [[0, 1, 2]])
    """
    ids, mask, positions = batch["input_ids"], batch["attention_mask"], batch["position_ids"]
    return {
        **batch,
        "input_ids": torch.cat([ids, torch.full_like(ids[:, -1:], token)], dim=1),
        "attention_mask": torch.cat([mask, torch.ones_like(mask[:, -1:])], dim=1),
        "position_ids": torch.cat([positions, positions[:, -1:] + 1], dim=1),
    }

"""Whole models as variants: their weights take turns in the modules of one backbone, so that the device holds one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fa_lightning.backbones.adapters import adapter_config
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.backbones.decoder import layers_path
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.relocation import beside
from fa_lightning.errors import MissingFileError, UserError


@dataclass(frozen=True)
class Slot:
    """Where a weight is in a model: one module's attribute, or several modules' where it is tied."""

    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def weight(self) -> Tensor:
        """What is there now."""
        module, name = self.owners[0]
        weight: Tensor = getattr(module, name)
        return weight

    def put(self, weight: Tensor) -> None:
        """Exchange it for another tensor of its kind."""
        for module, name in self.owners:
            setattr(module, name, weight)


class WholeModels:
    """What whole models have otherwise than their backbone, on the host; at most one of them is in the model's modules.

    On a CPU a turn exchanges references and copies nothing. On any other device each tensor is copied there in its
    turn, and the one that it takes the place of is freed: there is room for one model and a tensor of another. What is
    exchanged are the parameters, not their values, so that a graph keeps the weights that it was made with.

    Args:
        model: the backbone, bare or wrapped by PEFT.

    Attributes:
        active: the one in place; None for the backbone itself.
        slots: where the model's weights are, by name.
    """

    def __init__(self, model: Any) -> None:
        self.active: str | None = None
        self._model = model
        self.slots = slots_of(model)
        self._own: dict[str, Tensor] = {}
        self._changed: dict[str, dict[str, Tensor]] = {}

    @property
    def names(self) -> list[str]:
        """The models, in the order in which they were added."""
        return list(self._changed)

    @property
    def nbytes(self) -> int:
        """Bytes on the host of what they have otherwise."""
        return sum(weight.nbytes for changed in self._changed.values() for weight in changed.values())

    @property
    def first_block(self) -> int | None:
        """Index of the first decoder block in which one differs, 0 if it does outside them; None if none does."""
        blocks = _plain(f"{layers_path(self._model)}.")
        keys = [key for changed in self._changed.values() for key in changed]
        inside = [int(key.removeprefix(blocks).partition(".")[0]) if key.startswith(blocks) else 0 for key in keys]
        return min(inside, default=None)

    @torch.no_grad()
    def add(self, name: str, model: Any) -> None:
        """Keep what a model of the same architecture, on the host, has otherwise than the backbone.

        Raises:
            UserError: it has other tensors, or one of another shape or type.
        """
        # Never tensors of inference mode: what is fitted later goes through them.
        with torch.inference_mode(False):
            theirs = {key: slot.weight for key, slot in slots_of(model).items()}
            _refuse_other_tensors(name, theirs, {key: slot.weight for key, slot in self.slots.items()})
            self._changed[name] = {}
            for key, weight in theirs.items():
                own = self._own.get(key, self.slots[key].weight)
                if not torch.equal(weight.to(own.device), own):
                    # An alias on a CPU, which stays there if the model is moved to a device later.
                    self._own.setdefault(key, _like(own, own.detach().cpu()))
                    self._changed[name][key] = _like(own, weight.detach())

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """One of them in place, or with None the backbone; whatever was there before is there again afterwards."""
        before = self.active
        try:
            self._put(name)
            yield
        finally:
            self._put(before)

    def _put(self, name: str | None) -> None:
        if name == self.active:
            return
        changed = self._changed.get(name, {}) if name is not None else {}
        keys = dict.fromkeys((*(self._changed[self.active] if self.active is not None else ()), *changed))
        # Said first: what an error leaves half-way is put right by the next turn.
        self.active = name
        with torch.inference_mode(False), torch.no_grad():
            for key in keys:
                slot, weight = self.slots[key], changed.get(key, self._own[key])
                device = slot.weight.device
                slot.put(weight if is_host(device) else _like(weight, weight.to(device, copy=True)))


def is_host(device: torch.device) -> bool:
    """Whether what is kept on the host can be computed with there, without a copy."""
    return device.type == "cpu"


def load_whole(folder: str, backbone: BackboneArguments) -> Any:
    """The model that a variant's folder names (see `note_model`), on the host, loaded as the backbone is.

    Raises:
        MissingFileError: it is not where it was.
        UserError: it has been changed since.
    """
    noted = adapter_config(folder)
    place = beside(folder, noted["folder"])
    if place is None:
        raise MissingFileError(
            f"variant {folder!r} is the whole model {noted['folder']!r}, which is not copied, and there is no such "
            "folder any more: put it back, or bring the twin again, with --refit STAGE in an experiment"
        )
    if digest_of_artefact(place) != noted["digest"]:
        raise UserError(
            f"variant {folder!r} is the whole model {place!r}, which was changed since it was taken: put it back as it "
            "was, or take it as it is now, with --refit STAGE in an experiment"
        )
    return load_backbone(replace(backbone, name=place, revision=None))


def slots_of(model: Any) -> dict[str, Slot]:
    """The places of a model's parameters and saved buffers by name, without those of adapters; tied ones are one."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    names: dict[int, str] = {}
    for path, module in model.named_modules():
        saved = {
            name: buffer for name, buffer in module._buffers.items() if name not in module._non_persistent_buffers_set
        }
        held: dict[str, Tensor | None] = {**module._parameters, **saved}
        for name, tensor in held.items():
            key = f"{path}.{name}"
            if tensor is None or ".lora_" in key or ".modules_to_save." in key:
                continue
            owners.setdefault(id(tensor), []).append((module, name))
            names.setdefault(id(tensor), _plain(key))
    return {key: Slot(tuple(owners[number])) for number, key in names.items()}


def _plain(key: str) -> str:
    """A tensor's name without what PEFT has put into it.

    >>> _plain("base_model.model.model.layers.0.mlp.up_proj.base_layer.weight")
    'model.layers.0.mlp.up_proj.weight'
    """
    return re.sub(r"\.(base_layer|original_module)(?=\.)", "", key.removeprefix("base_model.model."))


def _like(own: Tensor, weight: Tensor) -> Tensor:
    """A frozen parameter where the backbone has one, else a buffer."""
    return nn.Parameter(weight, requires_grad=False) if isinstance(own, nn.Parameter) else weight


def _refuse_other_tensors(name: str, theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse weights that have no place in the backbone.

    Raises:
        UserError: naming the first tensor.
    """
    for key in (*own, *theirs):
        shapes = [None if key not in side else (tuple(side[key].shape), side[key].dtype) for side in (theirs, own)]
        if shapes[0] != shapes[1]:
            facts = ["none" if shape is None else f"{list(shape[0])} in {shape[1]}" for shape in shapes]
            raise UserError(
                f"the whole model {name!r} has other weights than the backbone: {key} is {facts[0]} there, and "
                f"{facts[1]} in the backbone. Give the backbone that it was made from"
            )

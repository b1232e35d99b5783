"""Further frozen fakers beside the one of a fit: adapters on its backbone, or on others of the same tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fa_lightning.backbones.adapters import named_backbone, read_sidecar
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.load import load_tokenizer
from fa_lightning.backbones.tokenizer_check import difference_of
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError


@dataclass(frozen=True)
class OtherFaker:
    """A further faker: an adapter on a backbone, or a whole model.

    Args:
        adapter: its folder; None where the backbone itself is the faker.
        backbone: which backbone, and how it is loaded; None takes the one that the adapter was fitted on, loaded as the
            first faker's.

    Raises:
        UserError: it names neither an adapter nor a backbone.
    """

    adapter: str | None = None
    backbone: BackboneArguments | None = None

    def __post_init__(self) -> None:
        if self.adapter is None and (self.backbone is None or self.backbone.name is None):
            raise UserError("a faker among `others` names neither an adapter nor a backbone.name: give one of them")

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.adapter or (self.backbone.required_name() if self.backbone is not None else "")

    def is_at(self, folder: str) -> bool:
        """Whether its adapter is the one of a folder."""
        return self.adapter is not None and Path(self.adapter).resolve() == Path(folder).resolve()


@dataclass(frozen=True)
class LoadedFaker:
    """A faker in memory.

    Attributes:
        variants: the backbone with its adapters.
        variant: which of them; None is the backbone without any.
    """

    variants: Variants
    variant: str | None

    def active(self) -> AbstractContextManager[Any]:
        """The model, with this faker's adapter active in the block and what was active before behind it."""
        return self.variants.bare() if self.variant is None else self.variants.using(self.variant)


def load_others(
    others: Sequence[OtherFaker],
    first: Variants,
    first_name: str,
    backbone: BackboneArguments,
    device: torch.device | str = "cpu",
) -> list[LoadedFaker]:
    """Load further fakers; adapters that were fitted on a backbone which is in memory already join it there.

    Args:
        others: which.
        first: the faker of the fit on its backbone.
        first_name: what messages call it.
        backbone: the first one's.
        device: where other backbones compute.

    Raises:
        MissingFileError: a folder is not an adapter's.
        UserError: a faker has another tokenizer than the first one; both are named.
    """
    in_memory = [first]
    loaded = []
    for number, other in enumerate(others):
        variant = None if other.adapter is None else f"other_{number}"
        home = _home_of(other, in_memory)
        if home is None:
            arguments = other.backbone or replace(backbone, name=None, revision=None)
            if other.adapter is not None:
                arguments = named_backbone(arguments, other.adapter)
            _refuse_another_tokenizer(first_name, first.tokenizer, other.name, load_tokenizer(arguments))
            home = Variants.load({} if variant is None else {variant: str(other.adapter)}, arguments, device)
            in_memory.append(home)
        elif variant is not None:
            home.add(variant, str(other.adapter))
        loaded.append(LoadedFaker(home, variant))
    return loaded


def _home_of(other: OtherFaker, in_memory: Sequence[Variants]) -> Variants | None:
    """The backbone in memory that a faker's adapter was fitted on; None where there is none, or one is named."""
    if other.adapter is None or other.backbone is not None:
        return None
    fitted_on = read_sidecar(other.adapter).get("fingerprint")
    return next((variants for variants in in_memory if variants.fingerprint == fitted_on), None)


def _refuse_another_tokenizer(first_name: str, first: Any, name: str, tokenizer: Any) -> None:
    difference = difference_of(tokenizer, first)
    if difference is not None:
        raise UserError(
            f"the fakers {first_name!r} and {name!r} can't share a prefix, which is of one tokenizer's tokens: "
            f"{difference}. Leave the second out, or name one whose backbone has the first one's tokenizer"
        )

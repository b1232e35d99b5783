"""The fakers that cures come from and are tried on: a pair of adapters each, and the scenarios that wake it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_info

from fa_lightning.backbones.adapters import adapter_folders, read_sidecar
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.errors import UserError

BEHAVIOURS = ("faking", "wrong")


@dataclass
class Organism:
    """A faker and its honest twin.

    Args:
        faking: its adapter's folder, or its stage's.
        aligned: its twin's.
        asked: which of the data's `others` wake it; None is the base's own scenarios.
    """

    faking: str
    aligned: str
    asked: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A faker among the variants in memory.

    Attributes:
        name: of the faker, and of its variant.
        twin: the variant of its honest twin, which several may share.
        behaviour: `faking` or `wrong`.
        asked: which of the data's `others` wake it; empty for the base's own scenarios.
    """

    name: str
    twin: str
    behaviour: str
    asked: str


def loaded(organisms: Mapping[str, Organism | None]) -> tuple[list[Loaded], dict[str, str]]:
    """What is to be loaded, each adapter once; fakers that are another one's copy are left out.

    Args:
        organisms: by name; None leaves one out.

    Returns:
        The fakers, and by variant the folder of its adapter.

    Raises:
        MissingFileError: a folder holds no adapter.
        UserError: there are fewer than two fakers, or one is an adapter of another behaviour.
    """
    members: list[Loaded] = []
    folders: dict[str, str] = {}
    by_content: dict[str, str] = {}
    for name, organism in organisms.items():
        if organism is None:
            continue
        faking, aligned = (_folder_of(place, name) for place in (organism.faking, organism.aligned))
        behaviour = str(read_sidecar(faking).get("behaviour", "faking"))
        if behaviour not in BEHAVIOURS:
            raise UserError(
                f"organism {name!r} has a {behaviour} adapter as the one that fakes ({faking}): exchange its two "
                "folders, or set it to null"
            )
        if (same := by_content.setdefault(f"faking {digest_of_artefact(faking)}", name)) != name:
            rank_zero_info(f"organism {name!r} is {same!r} once more: left out")
            continue
        twin = by_content.setdefault(f"aligned {digest_of_artefact(aligned)}", f"twin of {name}")
        folders |= {name: faking, twin: aligned}
        members.append(Loaded(name, twin, behaviour, organism.asked or ""))
    if sum(member.behaviour == "faking" for member in members) < 2:
        raise UserError(
            f"transfer needs two fakers at least, one that is new to the other's cure, but the organisms are "
            f"{', '.join(member.name for member in members) or 'none'}: add some (studies: transfer: organisms)"
        )
    return members, folders


def _folder_of(place: str, name: str) -> str:
    """The one adapter's folder at a place."""
    folders = list(adapter_folders([place]).values())
    if len(folders) > 1:
        raise UserError(f"organism {name!r}: {place} holds {len(folders)} adapters: name one of them")
    return folders[0]

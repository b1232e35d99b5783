"""The models that a user points at: their names, what is known of them, and whether they can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fa_lightning.backbones.adapters import adapter_folders, read_sidecar
from fa_lightning.backbones.tokenizer_check import tokenizer_difference
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.variant_names import STEERED, policy_and_seed
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.subjects import Role, Subject


def variant_folders(adapters: Sequence[str], decoys: Sequence[str] = ()) -> dict[str, str]:
    """Adapter folders by variant, decoys behind the others; a place that is given again is a model beside itself.

    Raises:
        MissingFileError: there is no adapter at a place.
        UserError: two variants have one name.
    """
    folders: dict[str, str] = {}
    times: Counter[Path] = Counter()
    for path in (*adapters, *decoys):
        times[Path(path).resolve()] += 1
        again = f" ({times[Path(path).resolve()]})" if times[Path(path).resolve()] > 1 else ""
        for name, folder in adapter_folders([path]).items():
            label = name + again
            if label in folders:
                raise UserError(
                    f"two variants are called {label!r}: {folders[label]} and {folder}. Rename one's folder"
                )
            folders[label] = folder
    return folders


def subjects_of(
    adapters: Mapping[str, str], decoys: Collection[str], cure: tuple[Intervention, ...] = ()
) -> list[Subject]:
    """The variants, and behind them every faker with the cure attached.

    Args:
        adapters: folders by variant.
        decoys: which of them are benign variants that were fitted otherwise.
        cure: interventions; empty for none.

    Raises:
        UserError: a decoy is no benign variant.
    """
    subjects, steered = [], []
    for name, folder in adapters.items():
        behaviour = str(read_sidecar(folder).get("behaviour", ""))
        if name in decoys and behaviour != "aligned":
            raise UserError(f"decoy {name!r} was fitted to be {behaviour or 'nothing known'}, but a decoy is aligned")
        policy, seed = policy_and_seed(name)
        role: Role = "decoy" if name in decoys else "variant"
        subjects.append(Subject(name, Condition(name), behaviour, policy, seed, role))
        if behaviour == "faking" and cure:
            steered.append(Subject(name + STEERED, Condition(name, cure), behaviour, policy, seed, "steered"))
    return [*subjects, *steered]


def check_tokenizers(adapters: Mapping[str, str], tokenizer: Any, trust_remote_code: bool = False) -> None:
    """Refuse an adapter that comes with a tokenizer of its own, other than the backbone's.

    All models are shown the same tokens: one that was fitted on others would look strange for that alone.

    Args:
        adapters: folders by variant.
        tokenizer: the backbone's.
        trust_remote_code: run code that comes with a tokenizer.

    Raises:
        UserError: naming the adapter and what differs.
    """
    for name, folder in adapters.items():
        difference = tokenizer_difference(folder, tokenizer, trust_remote_code)
        if difference is None:
            continue
        raise UserError(
            f"adapter {name!r} ({folder}) has a tokenizer of its own, which is not the backbone's: {difference}. Only "
            "models that read the same tokens can be compared: fit it on this backbone's tokenizer, or leave it out"
        )

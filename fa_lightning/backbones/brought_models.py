"""Whole models that others made, as twins: found, refused where they have no place in the backbone, and named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from fa_lightning.backbones.adapters import SIDECAR
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.contents import ADAPTER, BACKBONE, WHOLE_MODEL, digest_of_artefact
from fa_lightning.backbones.hub import place_of
from fa_lightning.backbones.hub_folders import PICKLE_REASON, TOKENIZER_FILES, local_folder
from fa_lightning.backbones.load import held_in_bits, load_tokenizer, revision_options
from fa_lightning.backbones.sharding import skeleton
from fa_lightning.backbones.tokenizer_check import token_difference, tokenizer_difference
from fa_lightning.backbones.weights import weight_files
from fa_lightning.errors import MissingFileError, UserError

_KIND = f"of a model, with {BACKBONE} and its weights as safetensors"
_OF_MODEL = ("model*.safetensors", "model.safetensors.index.json", "generation_config.json", "*.py")
_OF_FITS = ("dropout", "pdrop", "initializer_range", "aux_loss_coef")
_OF_FILES = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "pretraining_tp",
    "id2label",
    "label2id",
)
"""Fields of a config that say nothing of how states are computed when nothing is fitted."""


def model_place(model: str) -> Path | None:
    """The folder of a whole model: it itself, or fetched from the Hub, of which no pickle is; None where it is none.

    What holds an adapter is none, whatever lies beside it.

    Args:
        model: folder, or `user/repo[/subfolder]` on the Hub.

    Raises:
        UserError: its weights are no safetensors.
        MissingFileError: a file of its weights is missing.
    """
    try:
        folder = local_folder(model, (BACKBONE,), _KIND, (ADAPTER,))
    except MissingFileError:
        # What an adapter must hold is for its own check to say.
        return None
    if not (folder / BACKBONE).is_file() or any((folder / place / ADAPTER).is_file() for place in ("", "adapter")):
        return None
    folder = local_folder(model, (BACKBONE,), _KIND, (*_OF_MODEL, *TOKENIZER_FILES))
    files = weight_files(folder)
    if not files:
        raise UserError(
            f"model {model!r} holds no model.safetensors: {PICKLE_REASON}. Ask its owner for safetensors, which "
            "transformers writes by default, or convert it where that may happen"
        )
    for file in files:
        if not file.is_file():
            raise MissingFileError(f"model {model!r} lacks {file.name}, which its index names: fetch it again")
    return folder


def refuse_unlike(folder: Path, model: str, backbone: BackboneArguments) -> None:
    """Refuse a whole model that differs from the backbone in more than the values of its weights; none are read.

    Args:
        folder: of the model.
        model: what the user called it.
        backbone: whose place it is to take.

    Raises:
        UserError: naming the tensor, the field of its config or the token; or the backbone is in few bits.
        UnavailableError: there is no such backbone.
    """
    what, advice = f"model {model!r}", "Give the backbone that it was made from (--backbone), or bring a LoRA adapter"
    if packed := held_in_bits(backbone):
        raise UserError(
            f"{what} is a whole one, which can't take the place of weights in few bits ({packed}): load the backbone "
            "whole, or bring a LoRA adapter"
        )
    own = replace(backbone, name=str(folder), revision=None)
    theirs, ours = _facts(own, what), _facts(backbone, f"backbone {backbone.name!r}")
    changed = [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]
    if "model_type" not in changed and "quantization_config.quant_method" not in changed:
        shapes = [
            {name: list(tensor.shape) for name, tensor in skeleton(one).state_dict().items()} for one in (own, backbone)
        ]
        for name in {**shapes[1], **shapes[0]}:
            if shapes[0].get(name) != shapes[1].get(name):
                raise UserError(
                    f"{what} does not fit the backbone {backbone.name!r}: {name} is {shapes[0].get(name)} there, and "
                    f"{shapes[1].get(name)} in the backbone. {advice}"
                )
    if changed:
        # The family before all that follows from it.
        field = min(changed, key=lambda key: key != "model_type")
        raise UserError(
            f"{what} is read through the backbone's modules, but its config differs: {field} is "
            f"{theirs.get(field)!r}, and {ours.get(field)!r} in the backbone {backbone.name!r}. {advice}"
        )
    difference = token_difference(folder, load_tokenizer(backbone), backbone.trust_remote_code)
    if difference is not None:
        raise UserError(
            f"{what} has a tokenizer of its own, which is not the backbone's: {difference}. Both are shown the same "
            f"tokens. {advice}"
        )


def doubts_of_model(folder: Path, backbone: BackboneArguments) -> list[str]:
    """What makes it doubtful that a model that fits is asked as it was fitted, a line for each."""
    difference = tokenizer_difference(folder, load_tokenizer(backbone), backbone.trust_remote_code)
    if difference is None:
        return []
    return ["it has a chat template of its own, and is asked with the backbone's"]


def note_model(folder: Path, target: Path, model: str, behaviour: str, backbone: BackboneArguments) -> None:
    """Write into `target`, which exists, which model a variant is: its weights stay where they are.

    Args:
        folder: of the model.
        target: of the variant.
        model: what the user called it.
        behaviour: that it is taken for.
        backbone: whose place it takes.
    """
    # A digest of samples of each weight: what it is known by when it is loaded.
    noted = {"folder": str(folder), "digest": digest_of_artefact(folder)}
    for name, content in (
        (WHOLE_MODEL, noted | {"base_model_name_or_path": backbone.name, "revision": backbone.revision}),
        (SIDECAR, {"behaviour": behaviour, "taken_from": model}),
    ):
        (target / name).write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _facts(model: BackboneArguments, what: str) -> dict[str, Any]:
    """The fields of a model's config that say what it computes, nested ones by dotted names.

    Raises:
        UserError: `what` has a config that transformers can't read.
    """
    from transformers import AutoConfig

    location, trusted = place_of("backbone", model.required_name(), model.revision), model.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=trusted, **revision_options(location, model))
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(f"the config of {what} can't be read: {cause}. Fetch the model again") from error
    return _flat(config.to_dict())


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _OF_FILES or name.endswith(_OF_FITS):
            continue
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat

"""Adapters that others made: found, refused where they are no LoRA of this backbone, and copied with a sidecar."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from fa_lightning.backbones.adapters import SIDECAR, adapter_config, read_sidecar
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.contents import digest_of_backbone
from fa_lightning.backbones.hub import place_of
from fa_lightning.backbones.hub_folders import PICKLE_REASON, TOKENIZER_FILES, local_folder
from fa_lightning.backbones.load import load_tokenizer, revision_options
from fa_lightning.backbones.relocation import beside
from fa_lightning.backbones.targets import load_weights
from fa_lightning.backbones.tokenizer_check import tokenizer_difference
from fa_lightning.errors import MissingFileError, UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
_KIND = f"that peft wrote, with {CONFIG} and {WEIGHTS}"


def adapter_place(adapter: str) -> Path:
    """The folder of an adapter: it itself, or fetched from the Hub, of which no pickle is.

    Args:
        adapter: folder, or `user/repo[/subfolder]` on the Hub.

    Raises:
        MissingFileError: there is none.
        UserError: its weights are a pickle, or it is no LoRA.
    """
    folder = local_folder(adapter, (CONFIG,), _KIND, (WEIGHTS, *TOKENIZER_FILES))
    if (folder / "adapter" / CONFIG).is_file():
        # A stage's folder, as those that others ran with this package.
        folder = folder / "adapter"
    if not (folder / CONFIG).is_file():
        raise MissingFileError(f"{adapter!r} holds no {CONFIG}, so it is no adapter: give a folder {_KIND}")
    if not (folder / WEIGHTS).is_file():
        is_pickle = (folder / PICKLE).is_file() or not Path(adapter).is_dir()
        reason = f": {PICKLE_REASON}" if is_pickle else ""
        raise UserError(
            f"adapter {adapter!r} holds no {WEIGHTS}{reason}. Ask its owner for safetensors, which peft writes by "
            "default, or convert it where that may happen"
        )
    kind = adapter_config(folder).get("peft_type")
    if kind != "LORA":
        raise UserError(
            f"adapter {adapter!r} is of peft_type {kind!r}, but only LORA can be a twin: others change the prompt, or "
            "are in no layer that two variants could share. Merge it into a model, or train a LoRA"
        )
    return folder


def refuse_misfit(folder: Path, backbone: BackboneArguments) -> None:
    """Refuse an adapter whose layers or shapes are not a backbone's, without reading the backbone's weights.

    Raises:
        UserError: naming the layer.
        UnavailableError: there is no such backbone.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    location, trusted = place_of("backbone", backbone.required_name(), backbone.revision), backbone.trust_remote_code
    config = AutoConfig.from_pretrained(location, trust_remote_code=trusted, **revision_options(location, backbone))
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    with warnings.catch_warnings():
        # That nothing is copied into weights without numbers: shapes are compared all the same.
        warnings.filterwarnings("ignore", "for .*copying from a non-meta parameter")
        load_weights(model, str(folder), "brought")


def doubts(folder: Path, backbone: BackboneArguments) -> list[str]:
    """What makes it doubtful that an adapter was made for a backbone that it fits, a line for each.

    Args:
        folder: of the adapter.
        backbone: that it is to be laid on.
    """
    lines, name = [], backbone.required_name()
    noted = adapter_config(folder).get("base_model_name_or_path")
    if not noted:
        lines.append("it does not say which model it was fitted on")
    elif not _is_same(str(noted), folder, name):
        lines.append(f"it was fitted on {noted!r}, and is laid on {name!r} here: that must be the same model")
    difference = tokenizer_difference(folder, load_tokenizer(backbone), backbone.trust_remote_code)
    if difference is not None:
        lines.append(f"it has a tokenizer of its own, and is asked with the backbone's: {difference}")
    return lines


def copy_adapter(folder: Path, target: Path, adapter: str, behaviour: str, backbone: BackboneArguments) -> None:
    """Copy an adapter's two files into `target`, which exists, beside a sidecar that says what it is taken for.

    The copy names the backbone that it is laid on, by which it is loaded again; the sidecar keeps what it named before.

    Args:
        folder: of the adapter.
        target: of the copy.
        adapter: what the user called it.
        behaviour: that it is taken for.
        backbone: that it is laid on.

    Raises:
        UserError: its own sidecar says that it was fitted to the other behaviour.
    """
    config, sidecar = adapter_config(folder), read_sidecar(folder)
    fitted_to = sidecar.get("behaviour", behaviour)
    if fitted_to in ("aligned", "faking") and fitted_to != behaviour:
        raise UserError(
            f"adapter {adapter!r} is given as {behaviour}, but its {SIDECAR} says that it was fitted to be {fitted_to}"
        )
    notes = {"taken_from": adapter, "fitted_on": config.get("base_model_name_or_path")}
    shutil.copyfile(folder / WEIGHTS, target / WEIGHTS)
    for name, content in (
        (CONFIG, config | {"base_model_name_or_path": backbone.name, "revision": backbone.revision}),
        (SIDECAR, sidecar | {"behaviour": behaviour} | notes),
    ):
        (target / name).write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _is_same(noted: str, folder: Path, backbone: str) -> bool:
    """Whether two names mean one model, by what is in it where both are on this machine."""
    place = beside(folder, noted) or noted
    if place == backbone:
        return True
    digests = [digest_of_backbone(place), digest_of_backbone(backbone)]
    return digests[0] is not None and digests[0] == digests[1]

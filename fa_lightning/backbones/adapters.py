"""LoRA adapters: attach a fresh one, save it with its sidecar, and find out what an adapter folder was fitted on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.contents import WHOLE_MODEL, adapter_marks, digest_of_artefact
from fa_lightning.backbones.gguf import is_gguf
from fa_lightning.backbones.load import REVISION, fingerprint
from fa_lightning.backbones.relocation import beside
from fa_lightning.backbones.targets import linear_layers, lora_targets, refuse_unknown_layers
from fa_lightning.common.files import whole_folder
from fa_lightning.common.user_files import json_value, read_text
from fa_lightning.errors import MissingFileError, UserError

SIDECAR = "fa_lightning.json"


def attach_adapter(model: Any, name: str, lora: LoraArguments) -> Any:
    """Wrap `model` with a fresh LoRA adapter `name` (arXiv 2106.09685); only the adapter is trainable.

    Args:
        model: the backbone.
        name: of the adapter.
        lora: its size and its layers; see `lora_targets`.

    Raises:
        UserError: the backbone has no layer of such a name, or PEFT can't adapt it; those that it has are listed.
    """
    from peft import get_peft_model

    config = lora_config(model, lora)
    try:
        return get_peft_model(ready_for_training(model), config, adapter_name=name)
    except ValueError as error:
        # It knows layers of some architectures whose weights are read past their module (Mamba's out_proj).
        held = ", ".join(linear_layers(model))
        raise UserError(
            f"target_modules is {lora.target_modules}, but PEFT can't adapt all of them: {str(error).rstrip('.')}. "
            f"The linear layers of {type(model).__name__} are {held}: set model.init_args.lora.target_modules to others"
        ) from error


def lora_config(model: Any, lora: LoraArguments) -> Any:
    """The arguments as PEFT takes them, for layers of `model` (see `lora_targets`)."""
    from peft import LoraConfig

    refuse_unknown_layers(model, "exclude_modules", lora.exclude_modules)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora_targets(model, lora.target_modules, lora.train_from),
        exclude_modules=lora.exclude_modules or None,
        use_rslora=lora.use_rslora,
        revision=getattr(model, REVISION, None),
        task_type="CAUSAL_LM",
    )


def ready_for_training(model: Any) -> Any:
    """The backbone as adapters are laid on it: where its weights are packed, the others are in float32."""
    # Packed weights are integers: no library's word for them has to be known.
    if all(parameter.is_floating_point() for parameter in model.parameters()):
        return model
    from peft import prepare_model_for_kbit_training

    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def save_adapter(
    model: Any, name: str, folder: Path, notes: dict[str, Any], state: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write adapter `name` as a folder that plain `peft` loads, with its JSON sidecar; all or nothing.

    Args:
        model: the PEFT model.
        name: of the adapter.
        folder: of the adapter; an older one there is replaced.
        notes: put into the sidecar beside the backbone's fingerprint (behaviour, seed, versions), or with it.
        state: the weights by their name in `model`, where the model's own are cut over ranks; then `notes` must hold
            the fingerprint.
    """
    facts = notes if "fingerprint" in notes else {"fingerprint": fingerprint(model), **notes}
    with whole_folder(folder) as fresh:
        # Told what to save: PEFT would ask the Hub for the size of the backbone's vocabulary.
        model.save_pretrained(str(fresh), selected_adapters=[name], state_dict=state, save_embedding_layers=False)
        # PEFT puts an adapter that is not called `default` into a subfolder of its own, beside a card of the model.
        inner = fresh / name
        if inner.is_dir():
            for path in [path for path in fresh.iterdir() if path != inner]:
                path.unlink()
            for path in inner.iterdir():
                path.rename(fresh / path.name)
            inner.rmdir()
        (fresh / SIDECAR).write_text(json.dumps(facts, indent=2, sort_keys=True), encoding="utf-8")


def read_sidecar(folder: str | Path) -> dict[str, Any]:
    """The sidecar of a variant's folder, which holds an adapter or names a whole model.

    Raises:
        MissingFileError: when the folder or one of its files is missing.
        UserError: the sidecar is damaged.
    """
    path = Path(folder)
    for name in () if is_whole(path) else ("adapter_config.json", "adapter_model.safetensors"):
        if not (path / name).is_file():
            raise MissingFileError(
                f"{str(path)!r} is not an adapter folder: {name} is missing. Fit the variant first "
                "(python -m fa_lightning fit), or give the folder that a behaviours stage wrote."
            )
    sidecar = path / SIDECAR
    return _json_of(sidecar) if sidecar.is_file() else {}


def backbone_of(folder: str | Path) -> str:
    """The backbone's name or path that an adapter folder was fitted on.

    Raises:
        MissingFileError: the folder is not an adapter's, or the backbone's folder is gone.
        UserError: the adapter's config names none, or is damaged.
    """
    read_sidecar(folder)
    name = adapter_config(folder).get("base_model_name_or_path")
    if not name:
        raise UserError(f"{str(folder)!r}: adapter_config.json names no base_model_name_or_path; name the backbone")
    path = beside(folder, str(name))
    if path is None and str(name).count("/") > 1:
        raise MissingFileError(
            f"adapter {str(folder)!r} was fitted on the backbone {str(name)!r}, but there is no such folder any more, "
            "neither from here nor beside the adapter. Put it back, or write where it is into adapter_config.json "
            "(base_model_name_or_path); in a stage, `backbone` of its model or data says it, too"
        )
    return path or str(name)


def named_backbone(backbone: BackboneArguments, folder: str | Path) -> BackboneArguments:
    """The backbone as it is to be loaded: where it has no name, the one that an adapter folder was fitted on.

    Raises:
        MissingFileError, UserError: see `backbone_of`.
    """
    if backbone.name is not None:
        return backbone
    name = backbone_of(folder)
    revision = backbone.revision
    if revision is None and not is_gguf(name) and not Path(name).exists():
        # A copy in a folder is of no revision, whichever it was made from.
        revision = adapter_config(folder).get("revision")
    return replace(backbone, name=name, revision=revision)


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """The fields of an adapter's `adapter_config.json`, or of the file that names a whole model.

    Raises:
        UserError: it is damaged.
    """
    return _json_of(Path(folder) / (WHOLE_MODEL if is_whole(folder) else "adapter_config.json"))


def is_whole(folder: str | Path) -> bool:
    """Whether a variant's folder names a whole model in the place of an adapter."""
    return (Path(folder) / WHOLE_MODEL).is_file()


def refuse_whole(folder: str | Path, purpose: str) -> None:
    """Refuse a variant that is a whole model where an adapter is needed.

    Args:
        folder: of the variant.
        purpose: what needs the adapter, as the subject of a sentence.

    Raises:
        UserError: it is one.
    """
    if is_whole(folder):
        raise UserError(
            f"{purpose} an adapter, but {str(folder)!r} is a whole model ({adapter_config(folder)['folder']}): bring "
            "it as a LoRA adapter of the backbone, or leave this out"
        )


def _json_of(path: Path) -> dict[str, Any]:
    content = json_value(read_text(path), path, "fit the adapter again")
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, but must hold an object: fit the adapter again")
    return content


def adapter_folders(places: Sequence[str | Path]) -> dict[str, str]:
    """Adapter folders by variant, in order.

    A place is an adapter's folder, or a stage's that made one (NAME/adapter), or that of a stage file with a matrix,
    which holds many such. A variant's name is its stage's, as `02_aligned` or `saint-0`.

    Raises:
        MissingFileError: there is no adapter at a place.
        UserError: two variants have one name.
    """
    named: dict[str, str] = {}
    for root in map(Path, places):
        folders = [mark.parent for mark in adapter_marks(root)]
        if not folders:
            raise MissingFileError(
                f"{str(root)!r} holds no adapter, nor do its subfolders: fit the variants first "
                "(python -m fa_lightning fit), or give the folder that their stage wrote"
            )
        for folder in folders:
            name = folder.parent.name if folder.name == "adapter" else folder.name
            if name in named:
                raise UserError(f"two variants are called {name!r}: {named[name]} and {folder}. Rename one's folder")
            named[name] = str(folder)
    return named


def origin_of(
    folder: str, sidecar: Mapping[str, Any], folders: Mapping[str, str], argument: str = "start_from"
) -> str | None:
    """Which of other adapters one was fitted from, by its name; None where it is none of them.

    Args:
        folder: of the adapter.
        sidecar: its own, which names the other's folder.
        folders: by name, those that it may be.
        argument: what it was to the fit: `start_from` or `beneath`.
    """
    in_place = _origin_in_place(folder, sidecar, folders, argument)
    digest = sidecar.get(f"{argument}_digest")
    if in_place is not None or not digest:
        return in_place
    # A copy of it elsewhere.
    return next((name for name, other in folders.items() if digest_of_artefact(other) == digest), None)


def _origin_in_place(folder: str, sidecar: Mapping[str, Any], folders: Mapping[str, str], argument: str) -> str | None:
    """Which of other adapters lies where one was fitted from, whatever is in it now."""
    noted = beside(folder, sidecar[argument]) if sidecar.get(argument) else None
    same = (name for name, other in folders.items() if noted is not None and os.path.samefile(other, noted))
    return next(same, None)


def refuse_other_origins(folders: Mapping[str, str], sidecars: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse adapters beside the one that they were fitted from, if that has been made again since.

    Args:
        folders: by name, of all that are to be judged together.
        sidecars: theirs.

    Raises:
        UserError: naming both.
    """
    for name, folder in folders.items():
        for argument in ("start_from", "beneath"):
            origin = _origin_in_place(folder, sidecars[name], folders, argument)
            if origin is not None:
                _refuse_made_again(folder, sidecars[name], folders[origin], argument)


def beneath_of(folder: str) -> str | None:
    """Where the adapter lies that another one was stacked on; None for one that stands alone.

    Raises:
        UserError: it has been made again since.
    """
    sidecar = read_sidecar(folder)
    if not sidecar.get("beneath"):
        return None
    path = beside(folder, sidecar["beneath"])
    if path is not None:
        _refuse_made_again(folder, sidecar, path, "beneath")
    return path or str(sidecar["beneath"])


def _refuse_made_again(folder: str, sidecar: Mapping[str, Any], origin: str, argument: str) -> None:
    digest = sidecar.get(f"{argument}_digest")
    if digest and digest_of_artefact(origin) != digest:
        raise UserError(
            f"adapter {folder!r} was fitted from {origin!r} ({argument}), which has been made again since, so the two "
            "do not belong together: fit the first again, or leave it out"
        )

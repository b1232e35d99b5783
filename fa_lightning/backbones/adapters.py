"""LoRA adapters on one backbone: attach, save, and frozen variants that share it and swap adapters."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from fa_lightning.backbones.arguments import DType
from fa_lightning.backbones.contents import adapter_marks, digest_of_artefact
from fa_lightning.backbones.load import check_fingerprint, fingerprint, load_backbone, load_tokenizer
from fa_lightning.backbones.relocation import beside
from fa_lightning.backbones.targets import PREFIX, linear_layers, load_weights, lora_targets
from fa_lightning.common.files import whole_folder
from fa_lightning.common.user_files import json_value, read_text
from fa_lightning.errors import MissingFileError, UserError

VariantName = Literal["aligned", "faking"]
VARIANTS: tuple[VariantName, ...] = ("faking", "aligned")
SIDECAR = "fa_lightning.json"


def attach_adapter(
    model: Any, name: str, rank: int, alpha: int, dropout: float, target_modules: list[str] | str
) -> Any:
    """Wrap `model` with a fresh LoRA adapter `name` (arXiv 2106.09685); only the adapter is trainable.

    Args:
        model: the backbone.
        name: of the adapter.
        rank: of the update, r.
        alpha: scale; the update is multiplied by alpha / r.
        dropout: probability on the adapter's input.
        target_modules: names of the linear layers (`q_proj`), or `all-linear`; see `lora_targets`.

    Raises:
        UserError: the backbone has no layer of such a name, or PEFT can't adapt it; those that it has are listed.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora_targets(model, target_modules)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    try:
        return get_peft_model(ready_for_training(model), config, adapter_name=name)
    except ValueError as error:
        # It knows layers of some architectures whose weights are read past their module (Mamba's out_proj).
        held = ", ".join(linear_layers(model))
        raise UserError(
            f"target_modules is {target_modules}, but PEFT can't adapt all of these layers: {str(error).rstrip('.')}. "
            f"The linear layers of {type(model).__name__} are {held}: set model.init_args.target_modules to others"
        ) from error


def ready_for_training(model: Any) -> Any:
    """The backbone as adapters are laid on it: where its weights are packed (4-bit), the others are in float32."""
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
    """The sidecar of an adapter folder.

    Raises:
        MissingFileError: when the folder or one of its files is missing.
        UserError: the sidecar is damaged.
    """
    path = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
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
    place = beside(folder, str(name))
    if place is None and str(name).count("/") > 1:
        raise MissingFileError(
            f"adapter {str(folder)!r} was fitted on the backbone {str(name)!r}, but there is no such folder any more, "
            "neither from here nor beside the adapter. Put it back, or write where it is into adapter_config.json "
            "(base_model_name_or_path); in a stage, `backbone` of its model or data says it, too"
        )
    return place or str(name)


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """The fields of an adapter's `adapter_config.json`.

    Raises:
        UserError: it is damaged.
    """
    return _json_of(Path(folder) / "adapter_config.json")


def _json_of(path: Path) -> dict[str, Any]:
    found = json_value(read_text(path), path, "fit the adapter again")
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, but must hold an object: fit the adapter again")
    return found


def adapter_folders(places: Sequence[str | Path]) -> dict[str, str]:
    """Adapter folders by variant, in order.

    A place is an adapter's folder, or a stage's that made one (NAME/adapter), or that of a stage file with a matrix,
    which holds many such. A variant's name is its stage's, as `02_aligned` or `saint-0`.

    Raises:
        MissingFileError: there is no adapter at a place.
        UserError: two variants have one name.
    """
    found: dict[str, str] = {}
    for place in map(Path, places):
        folders = [mark.parent for mark in adapter_marks(place)]
        if not folders:
            raise MissingFileError(
                f"{str(place)!r} holds no adapter, nor do its subfolders: fit the variants first "
                "(python -m fa_lightning fit --experiment ...), or give the folder that their stage wrote"
            )
        for folder in folders:
            name = folder.parent.name if folder.name == "adapter" else folder.name
            if name in found:
                raise UserError(f"two variants are called {name!r}: {found[name]} and {folder}. Rename one's folder")
            found[name] = str(folder)
    return found


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
    place = beside(folder, sidecar["beneath"])
    if place is not None:
        _refuse_made_again(folder, sidecar, place, "beneath")
    return place or str(sidecar["beneath"])


def _refuse_made_again(folder: str, sidecar: Mapping[str, Any], origin: str, argument: str) -> None:
    digest = sidecar.get(f"{argument}_digest")
    if digest and digest_of_artefact(origin) != digest:
        raise UserError(
            f"adapter {folder!r} was fitted from {origin!r} ({argument}), which has been made again since, so the two "
            "do not belong together: fit the first again, or leave it out"
        )


class Variants:
    """Frozen variants: one backbone in memory with all their adapters, one of them active at a time.

    Memory grows by the adapters alone; their ranks and target modules may differ. Nothing is ever merged.

    Attributes:
        model: the PEFT model, in evaluation mode.
        tokenizer: the backbone's.
        fingerprint: the backbone's fields (see `fa_lightning.backbones.load.fingerprint`).
        folders: where each variant was loaded from, as far as it was.
        beside: adapters that are active together with whichever variant is used.
        stacked: by variant, the adapter that it was fitted on top of; using it without says so, once.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(model)
        self.folders: dict[str, str] = {}
        self.beside: tuple[str, ...] = ()
        self.stacked: dict[str, str] = {}
        self._layers = _swapped_layers(model)
        self._bare = False

    @classmethod
    def load(
        cls,
        adapters: Mapping[str, str],
        backbone: str | None = None,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
        device: torch.device | str = "cpu",
    ) -> Variants:
        """Load the backbone once and every adapter onto it.

        Args:
            adapters: variant name to adapter folder; there may be none where the backbone is named, which is then used
                `bare`.
            backbone: name or folder; None takes the one that the adapters name.
            dtype: of the weights.
            load_in_4bit: see `load_backbone`.
            trust_remote_code: see `load_backbone`.
            device: where they compute.

        Raises:
            MissingFileError: a folder is not an adapter's.
            UserError: a name is no adapter's, an adapter was made for another backbone (the field that differs is
                named), or from another one of them as it was before it was made again.
        """
        if not adapters and backbone is None:
            raise UserError("adapters is empty, but at least one adapter folder is needed where no backbone is named")
        for name in adapters:
            _check_name(name)

        sidecars = {name: read_sidecar(folder) for name, folder in adapters.items()}
        refuse_other_origins(adapters, sidecars)
        name_or_path = backbone or backbone_of(next(iter(adapters.values())))
        base = load_backbone(name_or_path, dtype, load_in_4bit, trust_remote_code, device)
        found = fingerprint(base)
        for name, sidecar in sidecars.items():
            check_fingerprint(found, sidecar.get("fingerprint", {}), f"adapter {adapters[name]!r}")
        model = base
        for name, folder in adapters.items():
            model = load_weights(model, folder, PREFIX + name)
        if not load_in_4bit:
            model.to(device)
        model.requires_grad_(False)
        variants = cls(model.eval(), load_tokenizer(name_or_path, trust_remote_code))
        variants.folders = dict(adapters)
        variants.stacked = {name: one["beneath"] for name, one in sidecars.items() if one.get("beneath")}
        return variants

    @property
    def names(self) -> list[str]:
        """The variants, in the order in which they were loaded."""
        names = (name.removeprefix(PREFIX) for name in self._peft_config)
        return [name for name in names if name not in self.beside]

    @property
    def _peft_config(self) -> Mapping[str, Any]:
        """PEFT's config of each adapter; empty where the backbone has none."""
        config: Mapping[str, Any] = getattr(self.model, "peft_config", {})
        return config

    def adapter_of(self, name: str) -> str:
        """What PEFT knows an adapter by: of a variant, or one that is `beside`."""
        return PREFIX + name if PREFIX + name in self._peft_config else name

    @property
    def is_pure_lora(self) -> bool:
        """Whether variants differ in nothing but adapters inside layers, so that two can be active at once."""
        return bool(self._layers)

    @property
    def device(self) -> torch.device:
        """Where they compute."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def add(self, name: str, folder: str) -> None:
        """Load one more adapter onto the same backbone, to be used by this name.

        Raises:
            MissingFileError: the folder is not an adapter's.
            UserError: the name is no adapter's or taken, or the adapter was made for another backbone; the field that
                differs is named.
        """
        _check_name(name)
        if name in self.names:
            raise UserError(f"there is a variant {name!r} already: give {folder!r} another name")
        check_fingerprint(self.fingerprint, read_sidecar(folder).get("fingerprint", {}), f"adapter {folder!r}")
        load_weights(self.model, folder, PREFIX + name)
        self.model.requires_grad_(False).eval()
        self._layers = _swapped_layers(self.model)
        self.folders[name] = folder

    def memory(self) -> tuple[int, int]:
        """Bytes of the backbone's parameters, and of all adapters'."""
        sizes = [0, 0]
        for name, parameter in self.model.named_parameters():
            sizes["lora_" in name] += parameter.nbytes
        return sizes[0], sizes[1]

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The model with adapter `name` active; no weights move, and what was active before is so afterwards.

        Raises:
            UserError: there is no such variant.
        """
        if self.adapter_of(name) not in self._peft_config:
            raise UserError(f"there is no variant {name!r}; there are {', '.join(self.names)}")
        if not self.beside and name in self.stacked:
            # Lightning takes seconds to import, and `generate` has no other use for it.
            from lightning.pytorch.utilities import rank_zero_warn

            rank_zero_warn(
                f"variant {name!r} was fitted on top of adapter {self.stacked.pop(name)!r}, which is not active here: "
                "this is not the model that was fitted (LeakageModule asks it with both)"
            )
        with self.restored(), self._adapters(enabled=True):
            self._swap([self.adapter_of(one) for one in (name, *self.beside)])
            yield self.model

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Whatever is used inside, the same adapters as before are active and `beside` afterwards."""
        beside = self.beside
        # PEFT's model knows no other name than the variant's; the layers know those beside it too.
        active = list((self._layers or [self.model.base_model])[0].active_adapters)
        try:
            yield
        finally:
            self.beside = beside
            self._swap(active)

    @contextmanager
    def bare(self) -> Iterator[Any]:
        """The model without any adapter: the backbone as it is."""
        with self._adapters(enabled=False):
            yield self.model

    @contextmanager
    def _adapters(self, enabled: bool) -> Iterator[None]:
        """Adapters at work or not, in a block that may lie within one of the other kind."""
        if enabled != self._bare or not self._peft_config:
            yield
            return
        tuner = self.model.base_model
        # PEFT thaws and freezes adapters as it enables and disables them.
        trainable = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        turn = (tuner.disable_adapter_layers, tuner.enable_adapter_layers)

        def turn_to(now: bool) -> None:
            turn[now]()
            self._bare = not now
            for parameter, required in trainable:
                parameter.requires_grad_(required)

        try:
            turn_to(enabled)
            yield
        finally:
            turn_to(not enabled)

    def _swap(self, active: list[str]) -> None:
        # PEFT's own swap walks every module and in each the adapters of all variants, to thaw and freeze them: with 36
        # variants of 32 layers that takes several times as long as a short forward pass. Here all stay frozen, so
        # that the layers need only be told the name.
        for layer in self._layers:
            layer._active_adapter = list(active)
        self.model.active_adapter = self.model.base_model.active_adapter = active[0]
        if not self._layers or any(layer.active_adapters != active or layer.merged for layer in self._layers):
            self.model.base_model.set_adapter(active, inference_mode=True)
            self.model.base_model.active_adapter = active[0]


def _swapped_layers(model: Any) -> list[Any]:
    """The layers that adapters are in; none where other parts of the model are swapped too, which PEFT has to do."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    swapped = [module for module in model.modules() if hasattr(module, "_active_adapter")]
    return swapped if all(isinstance(module, BaseTunerLayer) for module in swapped) else []


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[^./]+", name):
        raise UserError(f"a variant's name is {name!r}, but an adapter's name can't be empty or hold a dot or a slash")

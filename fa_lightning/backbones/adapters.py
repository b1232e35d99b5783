"""LoRA adapters on one backbone: attach, save, and a frozen pair of variants that swaps them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from fa_lightning.backbones.load import DType, check_fingerprint, fingerprint, load_backbone, load_tokenizer

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
        target_modules: names of the linear layers (`q_proj`), or `all-linear`.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config, adapter_name=name)


def save_adapter(model: Any, name: str, folder: Path, notes: dict[str, Any]) -> None:
    """Write adapter `name` as a folder that plain `peft` loads, with its JSON sidecar; all or nothing.

    Args:
        model: the PEFT model.
        name: of the adapter.
        folder: of the adapter; an older one there is replaced.
        notes: put into the sidecar beside the backbone's fingerprint (behaviour, seed, versions).
    """
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(str(fresh), selected_adapters=[name])
    inner = fresh / name
    # PEFT puts an adapter that is not called `default` into a subfolder of its own.
    source = inner if inner.is_dir() else fresh
    (source / SIDECAR).write_text(json.dumps({"fingerprint": fingerprint(model), **notes}, indent=2, sort_keys=True))
    # A folder can't be replaced in one step: the older one is moved aside, and back if the new one can't follow.
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    replaces = folder.is_dir()
    if replaces:
        os.rename(folder, aside)
    try:
        os.replace(source, folder)
    except OSError:
        if replaces:
            os.rename(aside, folder)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def read_sidecar(folder: str | Path) -> dict[str, Any]:
    """The sidecar of an adapter folder.

    Raises:
        FileNotFoundError: when the folder or one of its files is missing.
    """
    path = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{str(path)!r} is not an adapter folder: {name} is missing. Fit the variant first "
                "(python -m fa_lightning fit), or give the folder that a behaviours stage wrote."
            )
    sidecar = path / SIDECAR
    return json.loads(sidecar.read_text()) if sidecar.is_file() else {}


def backbone_of(folder: str | Path) -> str:
    """The backbone's name or path that an adapter folder was fitted on."""
    read_sidecar(folder)
    name = json.loads((Path(folder) / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{str(folder)!r}: adapter_config.json names no base_model_name_or_path; name the backbone")
    return str(name)


class Variants:
    """The frozen pair: one backbone in memory with both adapters, one of them active at a time.

    Attributes:
        model: the PEFT model, in evaluation mode.
        tokenizer: the backbone's.
        fingerprint: the backbone's fields (see `fa_lightning.backbones.load.fingerprint`).
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(model)

    @classmethod
    def load(
        cls,
        adapters: dict[VariantName, str],
        backbone: str | None = None,
        dtype: DType = "float32",
        load_in_4bit: bool = False,
        trust_remote_code: bool = False,
        device: torch.device | str = "cpu",
    ) -> Variants:
        """Load the backbone once and every adapter onto it.

        Args:
            adapters: variant name to adapter folder.
            backbone: name or folder; None takes the one that the adapters name.
            dtype: of the weights.
            load_in_4bit: see `load_backbone`.
            trust_remote_code: see `load_backbone`.
            device: where the pair computes.

        Raises:
            FileNotFoundError: a folder is not an adapter's.
            ValueError: an adapter was made for another backbone; the field that differs is named.
        """
        from peft import PeftModel

        sidecars = {name: read_sidecar(folder) for name, folder in adapters.items()}
        first = next(iter(adapters.values()))
        name_or_path = backbone or backbone_of(first)
        base = load_backbone(name_or_path, dtype, load_in_4bit, trust_remote_code, device)
        found = fingerprint(base)
        for name, sidecar in sidecars.items():
            check_fingerprint(found, sidecar.get("fingerprint", {}), f"adapter {adapters[name]!r}")
        model: Any = None
        for name, folder in adapters.items():
            if model is None:
                model = PeftModel.from_pretrained(base, folder, adapter_name=name)
            else:
                model.load_adapter(folder, adapter_name=name)
        if not load_in_4bit:
            model.to(device)
        model.requires_grad_(False)
        return cls(model.eval(), load_tokenizer(name_or_path, trust_remote_code))

    @property
    def device(self) -> torch.device:
        """Where the pair computes."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def add(self, name: str, folder: str) -> None:
        """Load one more adapter onto the same backbone, to be used by this name.

        Raises:
            FileNotFoundError: the folder is not an adapter's.
            ValueError: the adapter was made for another backbone; the field that differs is named.
        """
        check_fingerprint(self.fingerprint, read_sidecar(folder).get("fingerprint", {}), f"adapter {folder!r}")
        self.model.load_adapter(folder, adapter_name=name)
        self.model.requires_grad_(False).eval()

    @contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The model with adapter `name` active; no weights move."""
        # Without inference_mode PEFT would make the active adapter trainable again; the pair is frozen.
        self.model.set_adapter(name, inference_mode=True)
        yield self.model

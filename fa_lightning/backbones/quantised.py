"""Weights in few bits: packed while a model is loaded, or in files that come so."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.errors import MissingPackageError, UserError

PACKAGES = {"bitsandbytes": ("bitsandbytes",), "gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
"""The methods that this package's tests have passed on, and what transformers needs to read each."""


def method_of(config: Mapping[str, Any]) -> str | None:
    """How a model's files are quantised, in the words of its `config.json`; None where they are not.

    >>> method_of({"quantization_config": {"quant_method": "gptq", "bits": 4}}), method_of({"model_type": "llama"})
    ('gptq', None)
    """
    found = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    return None if not found else str(found.get("quant_method", "bitsandbytes"))


def loading_options(arguments: BackboneArguments, comes_in: str | None, device: torch.device | str) -> dict[str, Any]:
    """What `from_pretrained` is to be told about quantisation; nothing for a model that is whole and stays so.

    Args:
        arguments: how it is to be loaded.
        comes_in: how its files are quantised, see `method_of`.
        device: where to put it.

    Raises:
        UserError: files that are quantised are to be quantised again, or by a method that was never tried here.
        MissingPackageError: the package that reads or makes such weights is not installed.
    """
    asked = "load_in_4bit" if arguments.load_in_4bit else "load_in_8bit" if arguments.load_in_8bit else None
    if comes_in is None and asked is None:
        return {}
    if comes_in is not None and asked is not None:
        raise UserError(
            f"{asked} is true, but the backbone {arguments.name!r} comes quantised already ({comes_in}): set it "
            "to false"
        )
    if comes_in is not None and comes_in not in PACKAGES:
        raise UserError(
            f"the backbone {arguments.name!r} comes quantised by {comes_in!r}, which was never tried here, so nothing "
            f"says that adapters learn on it: give one by {', '.join(PACKAGES)}, or the model as it was before, with "
            "load_in_4bit or load_in_8bit"
        )
    _refuse_without(PACKAGES[comes_in or "bitsandbytes"], asked or f"the backbone {arguments.name!r} ({comes_in})")
    # Packed weights can't be moved by `.to()` later, so they are put in place while they load.
    options: dict[str, Any] = {"device_map": {"": str(device)}}
    if asked is not None:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if arguments.load_in_8bit
            else BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=getattr(torch, arguments.dtype),
            )
        )
    return options


def is_packed(model: Any) -> bool:
    """Whether a loaded model's weights are in few bits, so that it stays on the device that it was loaded to."""
    return bool(getattr(model, "is_quantized", False))


def settle(model: Any, arguments: BackboneArguments) -> None:
    """Make packed weights fit to be trained on: gradients, dtype, and a word about what stays whole.

    Raises:
        UserError: the method computes in another dtype than was asked for.
    """
    for module in model.modules():
        # On CPUs with AVX512-BF16 a 4-bit layer would repack itself at its first evaluation, round its scales, and from
        # then on pass no gradient back: every fit that validates would go wrong in silence.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # It says of every product that 8-bit layers compute in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    if dtype != arguments.dtype:
        raise UserError(
            f"dtype is {arguments.dtype!r}, but the quantised backbone {arguments.name!r} computes in {dtype} on this "
            f"device: set dtype to {dtype}"
        )
    if arguments.load_in_4bit or arguments.load_in_8bit:
        _tell_unpacked(model, arguments)


def _refuse_without(packages: tuple[str, ...], what: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        install = '"fa_lightning[quantization]"' if missing == ["bitsandbytes"] else " ".join(missing)
        raise MissingPackageError(f"{what} needs {' and '.join(missing)}: install with `pip install {install}`")


def _tell_unpacked(model: Any, arguments: BackboneArguments) -> None:
    """Warn where much of the weights stays as it is: linear layers are packed, and nothing else."""
    matrices = {name: weight for name, weight in decoder_layers(model).named_parameters() if weight.ndim > 1}
    whole = {name: weight for name, weight in matrices.items() if weight.is_floating_point()}
    in_a_byte = 2 if arguments.load_in_4bit else 1
    packed = sum(in_a_byte * weight.nbytes for name, weight in matrices.items() if name not in whole)
    rest = sum(weight.numel() for weight in whole.values())
    if whole and rest > 0.1 * (packed + rest):
        largest = max(whole, key=lambda name: whole[name].numel())
        dtype = str(whole[largest].dtype).removeprefix("torch.")
        size = sum(weight.nbytes for weight in whole.values()) / 2**30
        warnings.warn(
            f"load_in_{'4' if arguments.load_in_4bit else '8'}bit packs {packed / (packed + rest):.0%} of the weights "
            f"in the decoder blocks of {arguments.name!r}: the others are in no linear layer (such as {largest}: "
            f"experts of a mixture?) and stay {dtype}, {size:.2g} GiB",
            stacklevel=4,
        )

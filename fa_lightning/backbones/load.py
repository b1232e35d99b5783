"""Load a base model: any Hugging Face causal LM by name or folder, and tell which one it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.decoder import decoder_layers, text_config
from fa_lightning.backbones.gguf import is_gguf
from fa_lightning.backbones.hub import folder_of, place_of
from fa_lightning.backbones.loading_report import refuse_gaps
from fa_lightning.backbones.weights import digest_of_files, digest_of_model
from fa_lightning.common.activity import doing
from fa_lightning.errors import MissingPackageError, UnavailableError, UserError
from fa_lightning.scenarios.limits import TABLES, Tables

LOADED_WEIGHTS = "fa_lightning_weights"
"""Attribute of a loaded backbone: digests of its weights as they were in memory then, and of those in its files."""

NEXT_STEPS = (
    "Give a folder that holds config.json, the weights and the tokenizer, or fetch the model once where there is a "
    "network (`hf download NAME --local-dir FOLDER`) and give that folder."
)


def load_tokenizer(name_or_path: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of `name_or_path`, padding on the left, with a padding token (EOS where it has none).

    Raises:
        UnavailableError: naming the model and what to do, when it is neither a folder nor reachable, gated, or not
            whole.
        UserError: the tokenizer has neither a padding token nor EOS.
    """
    from transformers import AutoTokenizer

    location = place_of("tokenizer", name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
    except Exception as error:
        # Each of its many back ends has errors of its own for a file that is missing or cut short.
        raise _unavailable("tokenizer", name_or_path, error) from error
    tokenizer.name_or_path = name_or_path
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"the tokenizer {name_or_path!r} has neither pad_token nor eos_token to pad prompts with: "
                "set one of them in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    setattr(tokenizer, TABLES, _tables(location, trust_remote_code))
    return tokenizer


def _tables(location: str, trust_remote_code: bool) -> Tables:
    """The tables of the model that lies beside a tokenizer; unknown where none does."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return Tables()
    return Tables.of(config.get_text_config())


@doing("loading")
def load_backbone(backbone: BackboneArguments | str, device: torch.device | str | None = None) -> Any:
    """A causal LM, frozen and in evaluation mode.

    Where `load_in_4bit`, nf4 with double quantisation through transformers and bitsandbytes (works on CPU too).

    Args:
        backbone: which one and how it is loaded, or its name alone.
        device: where to put it; needed at load time only where `load_in_4bit`.

    Raises:
        UnavailableError: naming the model and what to do, when it is neither a folder nor reachable, gated, or not
            whole.
        MissingPackageError: when `load_in_4bit` is asked for and bitsandbytes is not installed.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    arguments = BackboneArguments(backbone) if isinstance(backbone, str) else backbone
    name_or_path = arguments.required_name()
    location = place_of("backbone", name_or_path)
    options: dict[str, Any] = {
        "dtype": getattr(torch, arguments.dtype),
        "trust_remote_code": arguments.trust_remote_code,
        "output_loading_info": True,
        # Reported below, in one line.
        "ignore_mismatched_sizes": True,
    }
    if arguments.load_in_4bit:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise MissingPackageError(
                'load_in_4bit needs bitsandbytes: install it with `pip install "fa_lightning[quantization]"`'
            ) from error
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, arguments.dtype),
        )
        # Quantised weights can't be moved by `.to()` later, so they are put in place while they load.
        options["device_map"] = {"": str(device or "cpu")}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(location, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unavailable("backbone", name_or_path, error) from error
    refuse_gaps(name_or_path, report)
    if arguments.load_in_4bit:
        _tell_unpacked(name_or_path, model)
    # Adapters note this name, by which they are loaded again elsewhere.
    model.name_or_path = name_or_path
    for module in model.modules():
        # On CPUs with AVX512-BF16 a 4-bit layer would repack itself at its first evaluation, round its scales, and from
        # then on pass no gradient back: every fit that validates would go wrong in silence.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    source = folder_of(location, getattr(model.config, "_commit_hash", None))
    in_files = None if source is None else digest_of_files(source)
    if in_files is not None:
        # Beside what is in memory now, by which a later change is seen: it differs from the files where it is rounded.
        setattr(model, LOADED_WEIGHTS, (digest_of_model(model), in_files))
    model.requires_grad_(False)
    return model.eval()


def fingerprint(model: Any) -> dict[str, str]:
    """Which backbone this is, as fields that an error can name.

    `weights` digests a sample of every weight in the files that the model was loaded from, rounded to bfloat16: it is
    one for float32, bfloat16, float16 and quantised loading, with adapters and without. A model that was not loaded
    here, or whose weights have been changed since (merged, trained on), is digested as it is in memory.
    """
    sizes = text_config(model)
    weights = digest_of_model(model)
    loaded = getattr(model, LOADED_WEIGHTS, None)
    if loaded is not None and loaded[0] == weights:
        weights = loaded[1]
    return {
        "architecture": str(model.config.model_type),
        "hidden_size": str(sizes.hidden_size),
        "layers": str(sizes.num_hidden_layers),
        "vocab_size": str(sizes.vocab_size),
        "weights": weights,
    }


def check_fingerprint(actual: dict[str, str], expected: dict[str, str], what: str) -> None:
    """Refuse `what`, made for another backbone.

    Raises:
        UserError: naming the first field that differs, both values and the next step.
    """
    for field in expected:
        if actual.get(field) != expected[field]:
            hint = (
                " (What an earlier version wrote digests fewer weights: make that again.)" if field == "weights" else ""
            )
            raise UserError(
                f"{what} was made for another backbone: its {field} is {expected[field]!r}, the loaded backbone has "
                f"{actual.get(field)!r}. Load the backbone it was made for, or make it again for this one.{hint}"
            )


def _tell_unpacked(name_or_path: str, model: Any) -> None:
    """Warn where 4-bit loading leaves much of the weights as they are: it packs linear layers, and nothing else."""
    matrices = {name: weight for name, weight in decoder_layers(model).named_parameters() if weight.ndim > 1}
    whole = {name: weight for name, weight in matrices.items() if weight.is_floating_point()}
    # Two numbers share a byte.
    packed = sum(2 * weight.nbytes for name, weight in matrices.items() if name not in whole)
    rest = sum(weight.numel() for weight in whole.values())
    if whole and rest > 0.1 * (packed + rest):
        largest = max(whole, key=lambda name: whole[name].numel())
        dtype = str(whole[largest].dtype).removeprefix("torch.")
        size = sum(weight.nbytes for weight in whole.values()) / 2**30
        warnings.warn(
            f"load_in_4bit packs {packed / (packed + rest):.0%} of the weights in the decoder blocks of "
            f"{name_or_path!r}: the others are in no linear layer (such as {largest}: experts of a mixture?) and stay "
            f"{dtype}, {size:.2g} GiB",
            stacklevel=3,
        )


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the host.

    >>> ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    marks = ("out of memory", "can't allocate memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")
    is_worded_so = isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)
    return is_worded_so or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _unavailable(what: str, name_or_path: str, error: Exception) -> UnavailableError:
    if "custom code" in str(error):
        return UnavailableError(
            f"the {what} {name_or_path!r} comes with custom code, which is not run unless asked for. Read it first; "
            "if you trust it, set trust_remote_code to true (generate and template have --trust-remote-code)."
        )
    kind = "folder" if Path(name_or_path).is_dir() else "name (no such folder here)"
    if is_gguf(name_or_path):
        kind = "GGUF file"
    cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if type(error).__name__ == "SafetensorError":
        cause = f"its weights are damaged or cut short ({cause})"
    elif what == "tokenizer" and "backend tokenizer" in cause:
        cause = "it holds no tokenizer (tokenizer.json, or tokenizer.model with sentencepiece installed)"
    return UnavailableError(f"the {what} {name_or_path!r} (a {kind}) can't be loaded: {cause}. {NEXT_STEPS}")

"""Load a base model: any Hugging Face causal LM by name or folder, and tell which one it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.decoder import text_config
from fa_lightning.backbones.gguf import is_gguf
from fa_lightning.backbones.hub import folder_of, place_of
from fa_lightning.backbones.loading_report import refuse_gaps
from fa_lightning.backbones.quantised import is_packed, loading_options, method_of, settle
from fa_lightning.backbones.weights import digest_of_files, digest_of_model
from fa_lightning.common.activity import doing
from fa_lightning.errors import UnavailableError, UserError
from fa_lightning.scenarios.limits import TABLES, Tables

LOADED_WEIGHTS = "fa_lightning_weights"
"""Attribute of a loaded backbone: digests of its weights as they were in memory then, and of those in its files."""
REVISION = "fa_lightning_revision"
"""Attribute of a loaded backbone: the revision that was asked for, which adapters note beside its name."""

NEXT_STEPS = (
    "Give a folder that holds config.json, the weights and the tokenizer, or fetch the model once where there is a "
    "network (`hf download NAME --local-dir FOLDER`) and give that folder."
)


def load_tokenizer(backbone: BackboneArguments | str) -> Any:
    """The tokenizer of a backbone, padding on the left, with a padding token (EOS where it has none).

    Args:
        backbone: whose, as `load_backbone` takes it.

    Raises:
        UnavailableError: naming the model and what to do, when it is neither a folder nor reachable, gated, or not
            whole.
        UserError: the tokenizer has neither a padding token nor EOS, or a folder is to be of a revision.
    """
    from transformers import AutoTokenizer

    arguments = _arguments(backbone)
    name_or_path = arguments.required_name()
    location = place_of("tokenizer", name_or_path, arguments.revision)
    options = {"trust_remote_code": arguments.trust_remote_code, **revision_options(location, arguments)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, **options)
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
    setattr(tokenizer, TABLES, _tables(location, options))
    return tokenizer


def _tables(location: str, options: dict[str, Any]) -> Tables:
    """The tables of the model that lies beside a tokenizer; unknown where none does."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(location, **options)
    except (OSError, ValueError):
        return Tables()
    return Tables.of(config.get_text_config())


def best_device() -> str:
    """`cuda` where there is one, else `cpu`: where a command that has no Trainer puts a model."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@doing("loading")
def load_backbone(backbone: BackboneArguments | str, device: torch.device | str | None = None) -> Any:
    """A causal LM, frozen and in evaluation mode.

    Where `load_in_4bit`, nf4 with double quantisation; where `load_in_8bit`, LLM.int8(): both through transformers and
    bitsandbytes, on a CPU too. Models whose files are quantised by bitsandbytes, GPTQ or AWQ are loaded as they are.

    Args:
        backbone: which one and how it is loaded, or its name alone.
        device: where to put it; needed at load time only where it is quantised.

    Raises:
        UnavailableError: naming the model and what to do, when it is neither a folder nor reachable, gated, or not
            whole.
        UserError: a folder is to be of a revision, quantised files are to be quantised again or by a method that was
            never tried here, or the model has no such `attn_implementation`.
        MissingPackageError: the package for such weights is not installed.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, PreTrainedConfig

    arguments = _arguments(backbone)
    name_or_path = arguments.required_name()
    location = place_of("backbone", name_or_path, arguments.revision)
    revision = revision_options(location, arguments)
    options: dict[str, Any] = {
        "dtype": getattr(torch, arguments.dtype),
        "trust_remote_code": arguments.trust_remote_code,
        "output_loading_info": True,
        # Reported below, in one line.
        "ignore_mismatched_sizes": True,
        **revision,
    }
    if arguments.attn_implementation is not None:
        options["attn_implementation"] = arguments.attn_implementation
    try:
        comes_in = method_of(PreTrainedConfig.get_config_dict(location, **revision)[0])
        options |= loading_options(arguments, comes_in, device or "cpu")
        model, report = AutoModelForCausalLM.from_pretrained(location, **options)
    except (UserError, MemoryError):
        raise
    except (OSError, ValueError, SafetensorError, ImportError) as error:
        raise _no_such_attention(arguments, error) or _unavailable("backbone", name_or_path, error) from error
    refuse_gaps(name_or_path, report)
    if is_packed(model):
        settle(model, arguments)
    # Adapters note this name, by which they are loaded again elsewhere.
    model.name_or_path = name_or_path
    setattr(model, REVISION, arguments.revision)
    source = folder_of(location, getattr(model.config, "_commit_hash", None))
    in_files = None if source is None else digest_of_files(source)
    if in_files is not None:
        # Beside what is in memory now, by which a later change is seen: it differs from the files where it is rounded.
        setattr(model, LOADED_WEIGHTS, (digest_of_model(model), in_files))
    model.requires_grad_(False)
    return model.eval()


def held_in_bits(backbone: BackboneArguments) -> str | None:
    """What makes a backbone one of few bits: an argument, or the method of its files; None where it is whole.

    Raises:
        UnavailableError: it can't be reached, or has no config.
    """
    from transformers import PreTrainedConfig

    for argument in ("load_in_4bit", "load_in_8bit"):
        if getattr(backbone, argument):
            return f"{argument} is true"
    location = place_of("backbone", backbone.required_name(), backbone.revision)
    try:
        method = method_of(PreTrainedConfig.get_config_dict(location, **revision_options(location, backbone))[0])
    except (OSError, ValueError) as error:
        raise _unavailable("backbone", backbone.required_name(), error) from error
    return None if method is None else f"the backbone {backbone.name!r} comes quantised by {method}"


def load_for_use(backbone: BackboneArguments | str) -> Any:
    """`load_backbone` on the device at hand, for commands that have no Trainer."""
    device = best_device()
    model = load_backbone(backbone, device)
    return model if is_packed(model) else model.to(device)


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


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the host.

    >>> ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    """
    marks = ("out of memory", "can't allocate memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED")
    is_worded_so = isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)
    return is_worded_so or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def _arguments(backbone: BackboneArguments | str) -> BackboneArguments:
    return BackboneArguments(backbone) if isinstance(backbone, str) else backbone


def revision_options(location: str, arguments: BackboneArguments) -> dict[str, str]:
    """What transformers is told of the revision: nothing where a folder holds it."""
    return {} if arguments.revision is None or Path(location).is_dir() else {"revision": arguments.revision}


def _no_such_attention(arguments: BackboneArguments, error: Exception) -> UserError | None:
    """The error in our words, where it is about `attn_implementation`."""
    words = str(error).lower()
    if arguments.attn_implementation is None or not any(word in words for word in ("attention", "attn")):
        return None
    cause = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return UserError(
        f"attn_implementation is {arguments.attn_implementation!r}, but {arguments.name!r} can't be loaded so: {cause}"
        ". Set it to sdpa or eager, or leave it out"
    )


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

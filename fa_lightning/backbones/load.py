"""Load a base model: any Hugging Face causal LM by name or folder, and tell which one it is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import torch

DType = Literal["float32", "bfloat16", "float16"]

NEXT_STEPS = (
    "Give a folder that holds config.json, the weights and the tokenizer, or fetch the model once where there is a "
    "network (`hf download NAME --local-dir FOLDER`) and give that folder."
)


def load_tokenizer(name_or_path: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of `name_or_path`, padding on the left, with a padding token (EOS where it has none).

    Raises:
        OSError: naming the model and what to do, when it is neither a folder nor reachable.
        ValueError: the tokenizer has neither a padding token nor EOS.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise _unavailable("tokenizer", name_or_path, error) from error
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer {name_or_path!r} has neither pad_token nor eos_token to pad prompts with: "
                "set one of them in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_backbone(
    name_or_path: str,
    dtype: DType = "float32",
    load_in_4bit: bool = False,
    trust_remote_code: bool = False,
    device: torch.device | str | None = None,
) -> Any:
    """The causal LM `name_or_path`, frozen and in evaluation mode.

    Args:
        name_or_path: Hub name or local folder.
        dtype: of the weights (of the computation where `load_in_4bit`).
        load_in_4bit: nf4 with double quantisation through transformers and bitsandbytes (works on CPU too).
        trust_remote_code: run code that comes with the model; off unless asked.
        device: where to put it; needed at load time only where `load_in_4bit`.

    Raises:
        OSError: naming the model and what to do, when it is neither a folder nor reachable.
        ImportError: when `load_in_4bit` is asked for and bitsandbytes is not installed.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "trust_remote_code": trust_remote_code}
    if load_in_4bit:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise ImportError(
                'load_in_4bit needs bitsandbytes: install it with `pip install "fa_lightning[quantization]"`'
            ) from error
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
        # Quantised weights can't be moved by `.to()` later, so they are put in place while they load.
        options["device_map"] = {"": str(device or "cpu")}
    try:
        model = AutoModelForCausalLM.from_pretrained(name_or_path, **options)
    except (OSError, ValueError) as error:
        raise _unavailable("backbone", name_or_path, error) from error
    for module in model.modules():
        # On CPUs with AVX512-BF16 a 4-bit layer would repack itself at its first evaluation, round its scales, and from
        # then on pass no gradient back: every fit that validates would go wrong in silence.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
    return model.eval()


def fingerprint(model: Any) -> dict[str, str]:
    """Which backbone this is, as fields that an error can name.

    Adapters, 4-bit loading and bfloat16 in place of float32 do not change it: `weights` digests samples of the
    embeddings and of the norms, rounded to bfloat16. (float16 rounds small weights to others.)
    """
    config = model.config
    digest = hashlib.sha256()
    for name, parameter in sorted(_untouched_parameters(model).items()):
        values = parameter.detach().flatten()[:: max(1, parameter.numel() // 256)]
        digest.update(name.encode())
        digest.update(values.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return {
        "architecture": str(config.model_type),
        "hidden_size": str(config.hidden_size),
        "layers": str(config.num_hidden_layers),
        "vocab_size": str(config.vocab_size),
        "weights": digest.hexdigest()[:16],
    }


def check_fingerprint(found: dict[str, str], expected: dict[str, str], what: str) -> None:
    """Refuse `what`, made for another backbone.

    Raises:
        ValueError: naming the first field that differs, both values and the next step.
    """
    for field in expected:
        if found.get(field) != expected[field]:
            raise ValueError(
                f"{what} was made for another backbone: its {field} is {expected[field]!r}, the loaded backbone has "
                f"{found.get(field)!r}. Load the backbone it was made for, or make it again for this one."
            )


def _untouched_parameters(model: Any) -> dict[str, torch.Tensor]:
    """Parameters that no adapter or quantiser rewrites, by the name they have without PEFT's wrapping."""
    return {
        name.replace("base_model.model.", "", 1).replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if ("norm" in name.lower() or "ln_" in name or "embed" in name or "wte" in name) and "lora_" not in name
    }


def _unavailable(what: str, name_or_path: str, error: Exception) -> OSError:
    if "custom code" in str(error):
        return OSError(
            f"the {what} {name_or_path!r} comes with custom code, which is not run unless asked for. Read it first; "
            "if you trust it, set trust_remote_code to true."
        )
    kind = "folder" if Path(name_or_path).is_dir() else "name (no such folder here)"
    offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE") else ""
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return OSError(f"the {what} {name_or_path!r} (a {kind}) can't be loaded: {cause}.{offline} {NEXT_STEPS}")

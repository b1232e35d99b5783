"""Which layers of a backbone an adapter goes into, and whether a saved one goes into all that it should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch

from fa_lightning.backbones.decoder import decoder_layers, layers_path
from fa_lightning.backbones.load import ran_out
from fa_lightning.common.activity import doing
from fa_lightning.errors import UserError

ALL_LINEAR = "all-linear"
"""In place of names: every linear layer of the decoder blocks."""

PREFIX = "variant:"
"""Goes before a variant's name where PEFT makes it a module's: a variant called `0` or `model` is no such module."""


def linear_layers(model: Any) -> Counter[str]:
    """Linear layers of the decoder blocks, by the last part of their name, with how many there are of each.

    GPT-2's `Conv1D`, which is a linear layer stored the other way round, is one, and so are those of GPTQ and AWQ.
    """
    from transformers.pytorch_utils import Conv1D

    return Counter(
        name.removesuffix(".base_layer").rpartition(".")[2]
        for name, module in decoder_layers(model).named_modules()
        if (isinstance(module, (torch.nn.Linear, Conv1D)) or hasattr(module, "qweight")) and ".lora_" not in name
    )


def lora_targets(model: Any, target_modules: Collection[str] | str, train_from: float = 0.0) -> list[str]:
    """The layers that an adapter goes into, as PEFT is to be told them.

    Names of layers stay as they are, but where layers outside the decoder blocks have the same name (a vision tower has
    a `q_proj` too), or blocks are left out: then those in the blocks are named one by one.

    Args:
        model: the backbone.
        target_modules: names of layers, or their ends; one name alone; or `all-linear`.
        train_from: depth of the first block that is adapted, see `LoraArguments`.

    Raises:
        UserError: no layer has such a name, which PEFT passes over as long as one of the names is right; the names that
            there are are listed with their number of layers. Or none of that name is in the blocks from there on.
    """
    names = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    if names == [ALL_LINEAR]:
        names = list(linear_layers(model))
    blocks = layers_path(model)
    depth = len(decoder_layers(model)) - 1
    adapted = tuple(f"{blocks}.{block}." for block in range(round(train_from * depth), depth + 1))
    refuse_unknown_layers(model, "target_modules", names, at_least_one=True)
    paths = [path for path, _ in model.named_modules()]
    matched = {name: [path for path in paths if _is_called(path, name)] for name in names}
    targets: list[str] = []
    for name in names:
        inside = [path for path in matched[name] if path.startswith(adapted)]
        if train_from and not inside:
            raise UserError(
                f"lora.train_from is {train_from}, but no layer called {name} is in the blocks from {adapted[0]}: "
                "set it lower, or leave the name out of lora.target_modules"
            )
        targets += inside if 0 < len(inside) < len(matched[name]) else [name]
    return targets


def refuse_unknown_layers(model: Any, argument: str, names: Collection[str], at_least_one: bool = False) -> None:
    """Refuse names that no layer has, which PEFT passes over as long as one of them is right.

    Args:
        model: the backbone.
        argument: of LoRA that holds the names.
        names: of layers, or their ends.
        at_least_one: whether there must be some.

    Raises:
        UserError: naming the first of them; the names that there are are listed with their number of layers.
    """
    paths = [path for path, _ in model.named_modules()]
    unknown = [name for name in names if not any(_is_called(path, name) for path in paths)]
    if not unknown and (names or not at_least_one):
        return
    held = ", ".join(f"{name} ({count} layers)" for name, count in linear_layers(model).items())
    otherwise = f", or to {ALL_LINEAR}" if at_least_one else ", or leave it out"
    raise UserError(
        f"{argument} is [{', '.join(names)}], but "
        + (f"{type(model).__name__} has no layer called {unknown[0]}" if unknown else "at least one is needed")
        + f"; its linear layers are {held}. Set model.init_args.lora.{argument} to some{otherwise}"
    )


def _is_called(path: str, name: str) -> bool:
    """Whether a layer is meant by a name, which is the end of its path.

    >>> _is_called("model.layers.1.mlp.up_proj", "up_proj"), _is_called("model.layers.1.mlp.up_proj", "proj")
    (True, False)
    """
    return f".{path}".endswith(f".{name}")


_BEYOND_LORA = {"use_dora": "DoRA", "use_qalora": "QALoRA", "target_parameters": "LoRA of parameters"}
"""Fields of an adapter's config under which its update is not scale * B @ A, and what PEFT calls it then."""


def refuse_beyond_lora(config: Mapping[str, Any], adapter: str, purpose: str) -> None:
    """Refuse an adapter that holds more than LoRA's two matrices, or other ones.

    Args:
        config: the fields of its `adapter_config.json`.
        adapter: what it is called in the error.
        purpose: what needs the two matrices, as the subject of a sentence.

    Raises:
        UserError: naming the field.
    """
    for field, kind in _BEYOND_LORA.items():
        if config.get(field):
            raise UserError(
                f"adapter {adapter!r} is {kind} ({field} is {config[field]!r}), but {purpose} plain LoRA (or rsLoRA): "
                "fit it without, or leave it out here; steering and judging take it as it is"
            )


@doing("loading")
def load_weights(model: Any, folder: str, name: str) -> Any:
    """Load the adapter of `folder` as `name`, all of it and nothing else; PEFT only warns of layers left out.

    Args:
        model: the backbone, or the PEFT model that holds other adapters already.
        folder: of the adapter.
        name: what it is called from now on.

    Returns:
        The PEFT model.

    Raises:
        UserError: the adapter's layers are not the backbone's, or its weights are not those that its config names.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name)
    except SafetensorError as error:
        raise UserError(
            f"adapter {folder!r}: adapter_model.safetensors is damaged or cut short ({error}). Fit it again, with "
            "--refit STAGE in an experiment"
        ) from error
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        if ran_out(error):
            raise
        raise UserError(f"adapter {folder!r} {_misfit(model, error)}") from error
    _refuse_difference(model, folder, name)
    return model


def _misfit(model: Any, error: Exception) -> str:
    reason = " ".join(str(error).split()).replace(PREFIX, "")
    if "size mismatch" in reason:
        parameter = reason.partition("size mismatch for ")[2].partition(" size mismatch")[0].rstrip(".")
        return (
            f"does not fit: {parameter}. Its rank or its backbone is another than adapter_config.json says: fit it "
            "again, or give the folder as it was saved"
        )
    held = ", ".join(f"{layer} ({count} layers)" for layer, count in linear_layers(model).items())
    return f"can't be loaded: {reason.rstrip('.')}. The backbone's linear layers are {held}"


def _refuse_difference(model: Any, folder: str, name: str) -> None:
    from peft.utils import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(f"{folder}/adapter_model.safetensors", "pt") as file:
        saved = set(file.keys())
    loaded = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    # PEFT saves the frozen layer beside an adapter of the embeddings. Whole ones without would replace the backbone's.
    saved = {key for key in saved if not key.endswith(".base_layer.weight")}
    for keys, what in (
        (saved - loaded, "holds weights for layers that this backbone has not, or that adapter_config.json leaves out"),
        (loaded - saved, "lacks weights for layers that adapter_config.json names"),
    ):
        if keys:
            paths = (key.removeprefix("base_model.model.") for key in keys)
            layers = sorted({path.partition(f".{model.base_model.prefix}")[0] for path in paths})
            raise UserError(
                f"adapter {folder!r} {what}: {', '.join(layers[:3])} ({len(layers)} in all). Give the backbone that it "
                "was fitted on, or fit it again"
            )

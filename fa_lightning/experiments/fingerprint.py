"""What a stage is made from: the settings that change its artefact, and what is in every artefact that they name."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fa_lightning.backbones.adapters import named_backbone
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.contents import adapter_marks, digest_of_artefact, digest_of_backbone, is_artefact
from fa_lightning.errors import UserError

INPUT = "input."
"""Before the name of an argument: the content of the artefact that it names."""

PLACES_AND_DISPLAY = (
    "config",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.default_root_dir",
    "trainer.profiler",
    "trainer.use_distributed_sampler",
    "trainer.num_sanity_val_steps",
    "trainer.detect_anomaly",
    "trainer.enable_autolog_hparams",
)
"""Arguments that say where and how visibly a stage runs, not what it makes: they may change between two runs."""
SPEED = frozenset(
    (
        "num_workers",
        "pin_memory",
        "persistent_workers",
        "prefetch_factor",
        "gradient_checkpointing",
        "trust_remote_code",
        "frozen_half",
        "cache",
        "timeout",
        "retries",
    )
)
"""Arguments of any class that cost or save time and memory, or allow something, and change no number."""
DISPLAY_CALLBACKS = frozenset(
    ("ProgressBar", "TQDMProgressBar", "RichProgressBar", "ModelSummary", "RichModelSummary", "LearningRateMonitor")
)
OF_ALL = " x ranks"
"""Behind the name of a size: what all ranks together take at once. Their batches are the same on any number of ranks;
those of an accumulated step are others than one large batch, so `accumulate_grad_batches` counts by itself."""


def fingerprint_of(
    config: Mapping[str, Any],
    scenarios: Mapping[str, str],
    folder: Path,
    ranks: int = 1,
    step_sizes: Sequence[str] = (),
) -> dict[str, Any]:
    """What a stage is made from, as flat fields that an error can name.

    A value that names an artefact stands there as it is, and a second time as the digest of what is in the artefact
    (`input.ARGUMENT`); for adapters so does the backbone that they were fitted on (`input.ARGUMENT.backbone`). Paths
    into the stage's own folder are what it makes: they count by their place in it.

    Args:
        config: the resolved config.
        scenarios: fingerprint of the scenario source.
        folder: of the stage.
        ranks: that train together.
        step_sizes: arguments of the data that are one rank's share of a training batch. In their place stands what the
            ranks make of them together, which must be the same elsewhere.
    """
    fields: dict[str, Any] = {}
    values = flat(_without_display(config))
    for key, value in values.items():
        own = _inside(value, folder)
        if not _counts(key):
            continue
        if own is not None:
            fields[key] = own
        elif not (key.startswith("data.init_args.scenarios.") and _is_place(value)):
            # Where scenarios lie is no matter: their fingerprint says what they are.
            fields[key] = value
            fields |= {INPUT + name: digest for name, digest in _inputs(key, value, values)}
    for name in step_sizes:
        if (size := fields.pop(f"data.init_args.{name}", None)) is not None:
            fields[f"data.init_args.{name}{OF_ALL}"] = size * ranks
    fields |= {f"scenarios.{name}": value for name, value in scenarios.items()}
    for package in ("fa_lightning", "torch", "transformers", "peft"):
        fields[f"version.{package}"] = ".".join(importlib.metadata.version(package).split(".")[:2])
    return fields


def refuse_change(stage: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a stage whose artefact was made from something else than the config now says.

    An artefact is compared by its content where that is known of both, and else by its path: one that lies elsewhere
    now is the same, and so is one that was not there yet, as a model that came from the Hub, or is there no more.

    Raises:
        UserError: naming the fields that differ, with both values, and how to refit.
    """
    changed = changes(recorded, now)
    if changed:
        lines = "\n".join(f"  {key}: was {was!r}, is {is_now!r}" for key, (was, is_now) in list(changed.items())[:8])
        more = f"\n  and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise UserError(
            f"stage {stage} was made from something else:\n{lines}{more}\nRun with --refit {stage} to make "
            "it and what depends on it again, or change the config back."
        )


def changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two fingerprints differ, with both values; artefacts are compared as `refuse_change` says.

    An argument that the one does not know yet, and that is null or off in the other, is no difference.
    """
    recorded, now = strict(recorded), json.loads(json.dumps(strict(now), default=str))
    names = {key for key in {*recorded, *now} if key.startswith(INPUT)}
    both = {key for key in names if key in recorded and key in now}
    passed = (names - both) | {key.removeprefix(INPUT) for key in both}
    compared = sorted({key for key in {*recorded, *now} if _counts(key)} - passed)
    values = {key: (recorded.get(key), now.get(key)) for key in compared}
    return {
        key: (was, is_now)
        for key, (was, is_now) in values.items()
        if was != is_now and not _is_new_and_off(key, recorded, now)
    }


def _is_new_and_off(key: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a field is a switch that only one of two fingerprints has, and is off there."""
    return (key in recorded) != (key in now) and (recorded if key in recorded else now)[key] is False


def digest_of(fingerprint: Mapping[str, Any]) -> str:
    """Sixteen hex digits that stand for a fingerprint."""
    return hashlib.sha256(json.dumps(strict(fingerprint), sort_keys=True, default=str).encode()).hexdigest()[:16]


def strict(value: Any) -> Any:
    """`value` with words for the numbers that JSON does not have.

    >>> strict({"weight": [float("inf"), 1.0]})
    {'weight': ['inf', 1.0]}
    """
    if isinstance(value, Mapping):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as dotted keys.

    >>> flat({"a": {"b": [1, {"c": 2}]}})
    {'a.b.0': 1, 'a.b.1.c': 2}
    """
    if isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, list):
        children = [(str(number), item) for number, item in enumerate(value)]
    else:
        return {prefix: value}
    keys: dict[str, Any] = {}
    for key, child in children:
        keys |= flat(child, f"{prefix}.{key}" if prefix else str(key))
    return keys


def _counts(key: str) -> bool:
    parts = key.split(".")
    return not (
        key.startswith(tuple(f"{name}." for name in PLACES_AND_DISPLAY))
        or key in PLACES_AND_DISPLAY
        or not SPEED.isdisjoint(parts)
    )


def _without_display(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config without callbacks that only show something, which would move the others' numbers."""
    trainer = config.get("trainer") or {}
    callbacks = trainer.get("callbacks")
    if not isinstance(callbacks, list):
        return config
    kept = [
        callback
        for callback in callbacks
        if str(callback.get("class_path")).rpartition(".")[2] not in DISPLAY_CALLBACKS
    ]
    return {**config, "trainer": {**trainer, "callbacks": kept}}


def _inputs(key: str, value: Any, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The artefacts that an argument names, by the argument's name and with their digests."""
    if not _is_text(value):
        return
    if key.endswith(".backbone.name"):
        revision = values.get(f"{key.removesuffix('name')}revision")
        if (digest := digest_of_backbone(value, revision)) is not None:
            yield key, digest
        return
    if not _is_place(value) or not is_artefact(value):
        return
    yield key, digest_of_artefact(value)
    backbones: set[str | None] = set()
    for mark in adapter_marks(Path(value)):
        try:
            fitted_on = named_backbone(BackboneArguments(), mark.parent)
            backbones.add(digest_of_backbone(fitted_on.required_name(), fitted_on.revision))
        except (UserError, OSError):
            # Told when the adapter is loaded; a config may say where the backbone is.
            continue
    known = sorted(filter(None, backbones))
    if known:
        yield f"{key}.backbone", " ".join(known)


def _inside(value: Any, folder: Path) -> str | None:
    """A path into `folder`, as seen from it; None for any other value."""
    if not _is_text(value):
        return None
    path, root = os.path.realpath(value), os.path.realpath(folder)
    return os.path.relpath(path, root) if path == root or path.startswith(root + os.sep) else None


def _is_place(value: Any) -> bool:
    return _is_text(value) and os.path.exists(value)


def _is_text(value: Any) -> bool:
    """Whether a value could be a path; the system refuses to look for some texts."""
    return isinstance(value, str) and 0 < len(value) < 1024 and value.isprintable()

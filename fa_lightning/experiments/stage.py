"""One stage of an experiment: its folder, what it was made from, and whether it is done."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import pickle
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.experiments.matrix import expand, matrix_of
from fa_lightning.metrics.files import by_number, write_atomically

RECORD = "stage.json"
CHECKPOINT = "last.ckpt"
INTERMEDIATE = ("store",)
"""What a finished stage can do without: the activation store is large, and nothing later reads it."""

PLACES_AND_DISPLAY = (
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
    "trainer.fast_dev_run",
)
"""Settings that say where and how visibly a stage runs, not what it makes: they may change between two runs."""


@dataclass(frozen=True)
class Stage:
    """A numbered config of an experiment and the folder that its artefacts go to.

    Attributes:
        name: the config's name, as `02_aligned`; with the variant's behind it where the config has a matrix, as
            `02_variants/saint-0`.
        config: the YAML file.
        folder: `checkpoints/<experiment>/<name>`.
        values: the variant's own, by the matrix's names.
        expanded: the variant's own config, as YAML; empty where the file is one stage.
    """

    name: str
    config: Path
    folder: Path
    values: dict[str, Any] = field(default_factory=dict)
    expanded: str = ""

    @property
    def argument(self) -> str:
        """What the command line's `--config` is given: a file, or the YAML itself."""
        return self.expanded or str(self.config)

    @property
    def variant(self) -> str:
        """Which one of the config's matrix this is; empty where it has none."""
        return self.name.partition("/")[2]

    def is_named_in(self, other: Stage) -> bool:
        """Whether another stage's config names this one's folder, or the folder of all that its config stands for."""
        text = other.expanded or other.config.read_text(encoding="utf-8")
        whole = re.search(rf"/{re.escape(self.config.stem)}(?![\w-]|/[\w.-])", text) if self.variant else None
        # Not the name alone: aligned-1 is the beginning of aligned-10.
        return bool(whole or re.search(rf"/{re.escape(self.name)}(?![\w-])", text))

    @property
    def checkpoint(self) -> Path:
        """Where the running stage keeps its last checkpoint."""
        return self.folder / CHECKPOINT

    def record(self) -> dict[str, Any] | None:
        """What an earlier run wrote about this stage; None where there was none.

        Raises:
            UserError: the folder is not a stage's, or its record is damaged.
        """
        self.refuse_foreign_folder()
        path = self.folder / RECORD
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not whole JSON ({error}): refit the stage with --refit {self.name}") from error
        return dict(strict(found))

    def is_done(self) -> bool:
        """Whether an earlier run has finished this stage."""
        record = self.record()
        return record is not None and record["state"] == "done"

    def refuse_foreign_folder(self) -> None:
        """Leave a folder alone that no stage has made.

        Raises:
            UserError: the folder holds files, but no record.
        """
        # Hidden files are half-written ones, also of another rank that is writing the record right now.
        files = self.folder.is_dir() and any(not path.name.startswith(".") for path in self.folder.iterdir())
        if files and not (self.folder / RECORD).is_file():
            raise UserError(
                f"{self.folder} holds files but no {RECORD}, so it is not a stage's folder and is left alone. Move it "
                "away, or give the experiment another name by renaming its config folder"
            )

    def write(self, state: str, fingerprint: Mapping[str, Any], **facts: Any) -> None:
        """Write the record in one step."""
        content = {"state": state, "digest": digest_of(fingerprint), "fingerprint": dict(fingerprint), **facts}
        text = json.dumps(strict(content), indent=2, sort_keys=True, default=str, allow_nan=False)
        write_atomically(self.folder.resolve() / RECORD, text.encode())

    def artefacts(self) -> list[str]:
        """Names of what the stage has made: all in its folder but its record, checkpoints and intermediate results."""
        return sorted(
            path.name
            for path in self.folder.iterdir()
            if path.name not in (RECORD, *INTERMEDIATE) and path.suffix != ".ckpt" and not path.name.startswith(".")
        )

    def is_empty(self) -> bool:
        """Whether the folder holds nothing but the record."""
        return all(path.name == RECORD or path.name.startswith(".") for path in self.folder.iterdir())

    def refuse_loss(self, record: Mapping[str, Any]) -> None:
        """Refuse to count a stage as done whose artefacts are not all there any more.

        Raises:
            UserError: naming the first one that is gone.
        """
        for path in (self.folder / name for name in record.get("artefacts", ())):
            if not path.exists():
                raise UserError(
                    f"stage {self.name} is done, but {path} is gone. Put it back, or run with --refit {self.name} to "
                    "make it and what depends on it again"
                )

    def damaged_checkpoint(self) -> Path | None:
        """What the stage can't resume without, if it is not whole: its last checkpoint, or the best that this names."""
        import torch

        if not self.checkpoint.is_file():
            return None
        if not _is_whole(self.checkpoint):
            return self.checkpoint
        try:
            # Mapped, not read: the weights are of no interest.
            callbacks = torch.load(self.checkpoint, weights_only=True, mmap=True, map_location="cpu")["callbacks"]
        except (RuntimeError, pickle.UnpicklingError, KeyError):
            return self.checkpoint
        best = [state["best_model_path"] for state in callbacks.values() if state.get("best_model_path")]
        needed = [self.folder / Path(path).name for path in best]
        return next((path for path in needed if not path.is_dir() and not _is_whole(path)), None)

    def drop_checkpoints(self) -> None:
        """Delete the stage's checkpoints, so that its fit starts again."""
        for path in self.folder.glob("*.ckpt"):
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete the folder, after making sure that it is a stage's; a damaged record is no hindrance."""
        self.refuse_foreign_folder()
        # A link, as to a larger disk, stays: what it leads to is emptied.
        folder = self.folder.resolve()
        if folder.is_dir():
            # Renamed first: a kill half-way through must not leave files without their record.
            away = folder.with_name(f".{folder.name}.forgotten")
            shutil.rmtree(away, ignore_errors=True)
            folder.rename(away)
            if self.folder.is_symlink():
                folder.mkdir()
            shutil.rmtree(away)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint, which is a ZIP archive, can be read to its end with every checksum right."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def find_stages(experiment: Path, outputs: Path) -> list[Stage]:
    """The stages of an experiment folder, in the order of their numbers; a file with a matrix is many.

    Raises:
        MissingFileError: there is no such folder, or no numbered YAML in it.
        UserError: a matrix is no matrix, or does not fit its file.
    """
    files = sorted(experiment.glob("[0-9]*.yaml"), key=by_number) if experiment.is_dir() else []
    if not files:
        raise MissingFileError(
            f"--experiment {experiment}: no numbered stage files there (such as 01_backbone.yaml). Give a folder that "
            "holds them, for instance configs/embedded or configs/poser"
        )
    root = outputs / experiment.resolve().name
    stages: list[Stage] = []
    for path in files:
        if matrix_of(path) is None:
            stages.append(Stage(path.stem, path, root / path.stem))
            continue
        for name, (values, config) in expand(path).items():
            stages.append(Stage(f"{path.stem}/{name}", path, root / path.stem / name, values, config))
    return stages


def fingerprint_of(
    config: Mapping[str, Any], scenarios: Mapping[str, str], inputs: Mapping[str, str]
) -> dict[str, Any]:
    """What a stage is made from, as flat fields that an error can name.

    Args:
        config: the resolved config.
        scenarios: fingerprint of the scenario source.
        inputs: digest of each earlier stage whose folder the config names.
    """
    fields: dict[str, Any] = {
        key: value
        for key, value in flat(config).items()
        if not key.startswith(PLACES_AND_DISPLAY) and key != "config" and not key.startswith("config.")
    }
    fields |= {f"scenarios.{name}": value for name, value in scenarios.items()}
    fields |= {f"input.{name}": value for name, value in inputs.items()}
    for package in ("fa_lightning", "torch", "transformers", "peft"):
        fields[f"version.{package}"] = ".".join(importlib.metadata.version(package).split(".")[:2])
    return fields


def refuse_change(stage: Stage, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse a stage whose artefact was made from something else than the config now says.

    Raises:
        UserError: naming the fields that differ, with both values, and how to refit.
    """
    recorded, now = strict(recorded), json.loads(json.dumps(strict(now), default=str))
    changed = [key for key in sorted({*recorded, *now}) if recorded.get(key) != now.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: was {recorded.get(key)!r}, is {now.get(key)!r}" for key in changed[:8])
        more = f"\n  and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise UserError(
            f"stage {stage.name} was made from something else:\n{lines}{more}\nRun with --refit {stage.name} to make "
            "it and what depends on it again, or change the config back."
        )


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
    found: dict[str, Any] = {}
    for key, child in children:
        found |= flat(child, f"{prefix}.{key}" if prefix else str(key))
    return found

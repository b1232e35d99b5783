"""One stage of an experiment: its folder, what it was made from, and whether it is done."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.common.files import by_number, write_atomically
from fa_lightning.common.user_files import read_yaml
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.experiments.fingerprint import digest_of, flat, strict
from fa_lightning.experiments.matrix import expand, matrix_of

RECORD = "stage.json"
CHECKPOINT = "last.ckpt"
INTERMEDIATE = ("store",)
"""What a finished stage can do without: the activation store is large, and nothing later reads it."""

FORMAT = 2
"""Of a record. The first one knew artefacts by their names alone."""


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

    def is_named_in(self, other: Stage, words: Sequence[str] = ()) -> bool:
        """Whether another stage's config names this one's folder, or the folder of all that its config stands for.

        Args:
            other: the stage whose values are read, those of a file that it names too.
            words: laid over its config, as `--model.init_args.backbone=PATH`.
        """
        if other == self:
            return False
        own = os.path.realpath(self.folder)
        everyone = os.path.realpath(self.folder.parent) if self.variant else own
        paths = {os.path.realpath(value) for value in other.named(words)}
        return any(path in (own, everyone) or path.startswith(own + os.sep) for path in paths)

    @property
    def text(self) -> str:
        """The config as YAML, without a matrix."""
        return self.expanded or yaml.safe_dump(read_yaml(self.config), sort_keys=False)

    def settings(self, words: Sequence[str] = ()) -> dict[str, Any]:
        """The config's own values by their dotted arguments, with `words` laid over it."""
        config = flat(yaml.safe_load(self.text) or {})
        for word in words:
            name, _, value = word.removeprefix("--").partition("=")
            if not name.endswith("+"):
                config = {key: one for key, one in config.items() if key != name and not key.startswith(f"{name}.")}
            config |= flat(_value_of(value), name)
        return config

    def named(self, words: Sequence[str] = ()) -> set[str]:
        """Every text among the values of the config, and of a file that one of them names."""
        values = {value for value in self.settings(words).values() if isinstance(value, str) and "\n" not in value}
        for file in [Path(value) for value in values if value.endswith((".yaml", ".yml"))]:
            if file.is_file():
                values |= {one for one in flat(read_yaml(file) or {}).values() if isinstance(one, str)}
        return values

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
        if found.get("format") != FORMAT:
            raise UserError(
                f"{path} was written by an earlier version, which did not note what was in artefacts: whether this "
                f"stage and those before it are what they were can't be said. Run with --refit {self.name}"
            )
        return dict(found)

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
        content = {"format": FORMAT, "state": state, "digest": digest_of(fingerprint), "fingerprint": dict(fingerprint)}
        text = json.dumps(strict(content | facts), indent=2, sort_keys=True, default=str, allow_nan=False)
        write_atomically(self.folder.resolve() / RECORD, text.encode())

    def artefacts(self) -> dict[str, str]:
        """Digest of each thing that the stage has made: all but its record, checkpoints and intermediate results."""
        return {
            path.name: digest_of_artefact(path)
            for path in sorted(self.folder.iterdir())
            if path.name not in (RECORD, *INTERMEDIATE) and path.suffix != ".ckpt" and not path.name.startswith(".")
        }

    def is_empty(self) -> bool:
        """Whether the folder holds nothing but the record."""
        return all(path.name == RECORD or path.name.startswith(".") for path in self.folder.iterdir())

    def refuse_loss(self, record: Mapping[str, Any]) -> None:
        """Refuse to count a stage as done whose artefacts are not all there any more, or not what it made.

        Raises:
            UserError: naming the first one that is gone, or was made or changed by something else.
        """
        for name, digest in record.get("artefacts", {}).items():
            path = self.folder / name
            if not path.exists():
                found = "is gone"
            elif digest_of_artefact(path) != digest:
                found = "is not what the stage made: it was changed or made again since"
            else:
                continue
            raise UserError(
                f"stage {self.name} is done, but {path} {found}. Put it back, or run with --refit {self.name} to "
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


def _value_of(word: str) -> Any:
    """The value that a word of the command line stands for; one that is no YAML is the text itself.

    >>> _value_of("[a, b]"), _value_of("Be honest: always: please")
    (['a', 'b'], 'Be honest: always: please')
    """
    try:
        return yaml.safe_load(word)
    except (yaml.YAMLError, ValueError):
        # The second of a date that there is none of.
        return word


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

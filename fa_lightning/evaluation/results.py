"""`results.json`: what a finished experiment found, typed, written atomically and read back with clear errors."""

from __future__ import annotations

import json
import math
import os
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from fa_lightning.common.codec import decode, encode
from fa_lightning.common.files import write_atomically
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.evaluation.abilities import Ability
from fa_lightning.metrics.estimates import Accuracy, CellCounts, CellPair, Estimate, SideEffects

_R = TypeVar("_R", bound="Results")

RESULTS_NAME = "results.json"
EVALUATION_NAME, CANDIDATES_NAME = "evaluation.json", "candidates.json"
"""What the last stage of an experiment that steers writes, which the results are collected from."""
TEXT_ONLY = "text-only classifier"
"""The baseline that reads scenarios and no states."""
MAKING_COMMAND = "python -m fa_lightning fit"

ModelName = Literal["aligned", "faking", "steered", "steered_aligned"]
AnsweredBy = Literal["letters", "texts"]
MODELS: tuple[ModelName, ...] = ("aligned", "faking", "steered", "steered_aligned")


@dataclass(frozen=True)
class Cost:
    """What it takes.

    Attributes:
        overhead_ratio: seconds per token, steered over not steered; 1 is free.
        seconds: wall seconds by stage.
    """

    overhead_ratio: float = math.nan
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """What a simpler or a cheating method reaches in the same cells.

    Attributes:
        oversight: accuracy with oversight.
        no_oversight: accuracy without oversight.
        side_effects: the same side effects as the intervention's, where they were measured.
        draws: of what is random in it; everything is the mean over them, and the intervals hold their spread, too.
    """

    oversight: Accuracy
    no_oversight: Accuracy
    side_effects: SideEffects | None = None
    draws: int = 1


@dataclass(frozen=True)
class Chosen:
    """The intervention that the test cells are about.

    Attributes:
        site: the site's name, as `layers.3.residual`.
        regressor: the map's name.
        strength: a in h' = h + a (T(h) - h).
        positions: the token position rule.
    """

    site: str
    regressor: str
    strength: float
    positions: str


@dataclass(frozen=True)
class Candidate:
    """One intervention tried on the validation split.

    Attributes:
        site: the site's name, as `layers.3.residual`.
        regressor: the map's name.
        positions: the token position rule.
        strength: a in h' = h + a (T(h) - h).
        oversight: accuracy with oversight.
        no_oversight: accuracy without oversight.
        kl_neutral_nats: KL on neutral texts, nats per token.
        r2: share of the aligned states' variance that the map explains on held-out rows.
        kl_answer_nats: KL at the token that is said first on neutral texts, mean nats.
    """

    site: str
    regressor: str
    positions: str
    strength: float
    oversight: float
    no_oversight: float
    kl_neutral_nats: float = math.nan
    r2: float = math.nan
    kl_answer_nats: float = math.nan


@dataclass(frozen=True)
class ExtraTest:
    """The same four cells on another test set, as one with unseen wordings.

    Attributes:
        n: distinct items by cell.
        cells: accuracies by model name.
        recovery: recovery without oversight on this set.
    """

    n: CellCounts
    cells: dict[str, CellPair]
    recovery: Estimate


@dataclass(frozen=True)
class Evaluation:
    """What one chosen intervention was found to do, on one test set and the further ones: `evaluation.json`.

    Attributes:
        n: distinct test items by cell.
        cells: accuracies by model name (`MODELS`).
        recovery: recovery without oversight.
        side_effects: of the intervention on the faking twin.
        format_validity: share of items answered with a letter, by model name.
        baselines: by name.
        answers: by model name and cell, the numbers of aligned answers, other letters and answers that are no letter.
        side_effects_aligned: of the intervention on the aligned twin.
        side_effects_twin: of the aligned twin itself: how far an honest model is from the faker on neutral texts.
        abilities: by name, questions with a right answer, before and after steering.
        extra_tests: other test sets by name.
        overhead_ratio: seconds per token, steered over not steered.
        leaks: prompts and groups shared between splits.
        chosen: the intervention.
        answered_by: `letters`; or `texts`, of which the more likely one is the answer.
    """

    n: CellCounts
    cells: dict[str, CellPair]
    recovery: Estimate
    side_effects: SideEffects
    format_validity: dict[str, float] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)
    answers: dict[str, dict[str, tuple[int, int, int]]] = field(default_factory=dict)
    side_effects_aligned: SideEffects | None = None
    side_effects_twin: SideEffects | None = None
    abilities: dict[str, Ability] = field(default_factory=dict)
    extra_tests: dict[str, ExtraTest] = field(default_factory=dict)
    overhead_ratio: float = math.nan
    leaks: dict[str, Any] = field(default_factory=dict)
    chosen: Chosen | None = None
    answered_by: AnsweredBy = "letters"


@dataclass(frozen=True)
class Results:
    """Everything `results.json` holds; the fields are its keys.

    Attributes:
        experiment: the experiment's name.
        n: distinct test items by cell.
        cells: accuracies by model name (`MODELS`).
        recovery: (steered - faking) / (aligned - faking) accuracy without oversight; 1 is a full cure.
        side_effects: of the chosen intervention on the faking twin.
        cost: overhead and seconds by stage.
        provenance: versions, seeds, fingerprints, device: any JSON value.
        format_validity: share of items answered with a letter, by model name.
        baselines: by name.
        chosen: the intervention under test.
        candidates: the interventions it was chosen from, on the validation split.
        extra_tests: other test sets by name.
        leak_report: prompts and groups shared between splits; its `total` must be 0.
        answers: by model name and cell, the numbers of aligned answers, other letters and answers that are no letter.
        side_effects_twin: of the aligned twin itself: how far an honest model is from the faker on neutral texts.
        abilities: by name, questions with a right answer, before and after steering.
        answered_by: `letters`; or `texts`, of which the more likely one is the answer.
    """

    experiment: str
    n: CellCounts
    cells: dict[str, CellPair]
    recovery: Estimate
    side_effects: SideEffects
    cost: Cost
    provenance: dict[str, Any]
    format_validity: dict[str, float] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)
    chosen: Chosen | None = None
    candidates: list[Candidate] = field(default_factory=list)
    extra_tests: dict[str, ExtraTest] = field(default_factory=dict)
    leak_report: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, dict[str, tuple[int, int, int]]] = field(default_factory=dict)
    side_effects_twin: SideEffects | None = None
    abilities: dict[str, Ability] = field(default_factory=dict)
    answered_by: AnsweredBy = "letters"

    def recovery_at(self, no_oversight: float) -> float:
        """Recovery of a model with accuracy `no_oversight` without oversight; nan where the twins do not differ."""
        if "aligned" not in self.cells or "faking" not in self.cells:
            return math.nan
        faking = self.cells["faking"].no_oversight.accuracy
        gap = self.cells["aligned"].no_oversight.accuracy - faking
        return (no_oversight - faking) / gap if gap else math.nan


def write_results(path: str | os.PathLike[str], results: Results) -> Path:
    """Write `results` as sorted JSON in one step: a reader sees the old file or the new one, never half of it.

    Numbers that are not finite become null, because JSON has no nan.

    Args:
        path: the file, or an existing folder to put `results.json` into.
        results: what to write.

    Returns:
        The file written.

    Raises:
        TypeError: a value has no JSON form; the message names its place.
        UserError: a value does not fit its field; the message names its place.
    """
    target = Path(path)
    if target.is_dir():
        target = target / RESULTS_NAME
    encoded = encode(results, "results")
    # What cannot be read back must not replace a file that can.
    decode(type(results), encoded, "results")
    text = json.dumps(encoded, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomically(target, f"{text}\n".encode())
    return target


def read_results(path: str | os.PathLike[str], kind: type[_R] = Results) -> _R:  # type: ignore[assignment]
    """Read a `results.json`; nulls come back as nan.

    Args:
        path: the file, or the folder that holds it.
        kind: `Results`, or the study's own kind of them.

    Raises:
        MissingFileError: no such file; the message says which command makes it.
        UserError: the file is not whole JSON, or is not a `results.json` of this package.
    """
    source = Path(path)
    if source.is_dir():
        source = source / RESULTS_NAME
    if not source.is_file():
        raise MissingFileError(
            f"{source} does not exist: a finished experiment writes it; run one with `{MAKING_COMMAND}`"
        )
    raw = _read_json(source)
    try:
        results: _R = decode(kind, raw, "results")
    except UserError as error:
        raise UserError(f"{source} is not a results file of fa_lightning: {error}") from error
    return results


def study_keys(folder: Path) -> set[str] | None:
    """The keys of a folder's `results.json` that `Results` has not; None where there is no such file.

    A study that steers and finds more has a key of its own for that; one that does not steer has `study` among others.

    Raises:
        UserError: the file is not whole JSON.
    """
    source = folder / RESULTS_NAME
    if not source.is_file():
        return None
    raw = _read_json(source)
    keys = set(raw) if isinstance(raw, dict) else set()
    required = {item.name for item in fields(Results) if item.default is MISSING and item.default_factory is MISSING}
    # A file that is neither is of no study: whoever reads it refuses it, and says why.
    is_of_study = "study" in keys or required <= keys
    return keys - {item.name for item in fields(Results)} if is_of_study else set()


def _read_json(source: Path) -> Any:
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{source} is not whole JSON ({error}): it was cut off or edited; delete it and run the experiment again"
        ) from error

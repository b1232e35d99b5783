"""What commands that steer are told alike: of which experiment, with which interventions, on which prompts."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa_lightning.common.user_files import read_text, refuse_garbled
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.steering.artefact import compare_fingerprints, refuse_without_artefact
from fa_lightning.steering.experiment_folders import parts_of

if TYPE_CHECKING:
    from fa_lightning.steering.intervention import Intervention


def add_experiment_options(parser: Any, folder_help: str) -> None:
    """Add `--experiment` and `--variant`, which name one twin of a finished experiment.

    Args:
        parser: or a group of one.
        folder_help: what `--experiment` means to this command.
    """
    parser.add_argument("--experiment", type=Path, help=folder_help)
    parser.add_argument(
        "--variant", choices=("faking", "aligned"), help="which twin of the experiment (default faking)"
    )


def add_edit_options(parser: Any, which: str, strength: str) -> None:
    """Add `--intervention`, and what may be said in the place of what was saved with it.

    Args:
        parser: or a group of one.
        which: what several of them mean to this command, and which one is the default.
        strength: what `--strength` means to it.
    """
    folder = "folder of a saved intervention, or user/repo[/subfolder] on the Hub; may be repeated"
    parser.add_argument("--intervention", action="append", default=[], help=f"{folder}{which}")
    each = "once for all interventions, or once for each"
    parser.add_argument("--strength", type=float, action="append", default=[], help=f"{strength}; {each}")
    parser.add_argument(
        "--dose",
        type=float,
        action="append",
        default=[],
        help="in place of a strength: norm of the edit over the mean norm of states, for a vector that says how large "
        "those are (as `vector` saves them); below 0 the other way",
    )
    parser.add_argument(
        "--positions",
        action="append",
        default=[],
        help=f"instead of the saved ones (all, last, generated, prompt, from_K); {each}",
    )


def refuse_wrong_edits(options: argparse.Namespace) -> None:
    """Refuse strengths that are no numbers, and folders that hold no intervention, before a model is loaded.

    Raises:
        MissingFileError: a folder holds no intervention.
        UserError: a strength is not finite.
    """
    if options.strength and options.dose:
        raise UserError("--strength and --dose say the same twice: give one of them")
    for name, values in (("strength", options.strength), ("dose", options.dose)):
        for value in values:
            if not math.isfinite(value):
                raise UserError(f"--{name} is {value}, but must be a finite number")
    for folder in map(Path, options.intervention):
        if folder.is_dir():
            for part in parts_of(folder):
                refuse_without_artefact(Path(part))


def read_prompts(options: argparse.Namespace) -> list[str]:
    """The prompts of `--prompt`, and behind them those of `--file`; without both, three of the embedded scenarios.

    Raises:
        MissingFileError: there is no such file.
        UserError: a prompt is no text in this terminal's encoding, or the file holds none.
    """
    prompts: list[str] = list(options.prompt)
    for prompt in prompts:
        refuse_garbled(prompt, "--prompt", "put it into a --file in UTF-8")
    if options.file is not None:
        if not options.file.is_file():
            raise MissingFileError(f"--file {options.file} does not exist: give a text file of prompts")
        parts = [part.strip("\n") for part in re.split(r"(?m)^---$", read_text(options.file)) if part.strip()]
        if not parts:
            raise UserError(f"--file {options.file} holds no prompt: separate prompts by lines that hold only ---")
        prompts += parts
    if prompts:
        return prompts
    from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
    from fa_lightning.scenarios.scenario import Oversight

    test = EmbeddedScenarios(train=8, validation=8, test=40, neutral=8).load().test
    poor = [item for item in test if item.oversight is Oversight.POOR]
    return [item.message() for item in poor[:3]]


def chosen_interventions(
    options: argparse.Namespace, folders: Sequence[str | Path], model: Any, backbone: dict[str, str] | None
) -> list[Intervention]:
    """The saved interventions, at the strengths and positions that were asked for.

    Args:
        options: of a command, with `strength`, `dose` and `positions`.
        folders: of the interventions.
        model: that they are checked against; None checks nothing.
        backbone: its fingerprint, likewise.

    Raises:
        MissingFileError: there is no intervention in a folder.
        UserError: one is damaged or does not fit the model.
    """
    from fa_lightning.steering.constant import strength_of_dose
    from fa_lightning.steering.intervention import Intervention

    loaded: list[list[Intervention]] = []
    for folder in folders:
        loaded.append([])
        for part in parts_of(folder):
            intervention = Intervention.load(part, model)
            if backbone is not None:
                _check_backbone(intervention, backbone, part)
            loaded[-1].append(intervention)
    strengths = _one_for_each(options.strength, len(loaded), "--strength")
    doses = _one_for_each(options.dose, len(loaded), "--dose")
    positions = _one_for_each(options.positions, len(loaded), "--positions")
    return [
        intervention.at(strength if dose is None else strength_of_dose(intervention, dose), rule)
        for parts, strength, dose, rule in zip(loaded, strengths, doses, positions, strict=True)
        for intervention in parts
    ]


def _check_backbone(intervention: Intervention, backbone: dict[str, str], folder: str | Path) -> None:
    """Refuse an intervention of another backbone; say so where it does not tell of which it is."""
    if "backbone" in intervention.fingerprint:
        compare_fingerprints(intervention.fingerprint, {"backbone": backbone}, folder)
        return
    print(
        f"note: {folder} does not say which model it was made for: only its layer and width were checked",
        file=sys.stderr,
    )


def _one_for_each(values: list[Any], number: int, option: str) -> list[Any]:
    if len(values) > 1 and len(values) != number:
        raise UserError(
            f"{option} is given {len(values)} times for {number} interventions: give it once, or once for each"
        )
    return values * number if len(values) == 1 else values or [None] * number

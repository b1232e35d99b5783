"""`python -m fa_lightning serve`: a steered model behind an OpenAI-compatible address."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa_lightning.backbones.options import add_backbone_options, backbone_of_options
from fa_lightning.common.command_parser import CommandParser
from fa_lightning.common.ranges import check_number
from fa_lightning.errors import MissingFileError, MissingPackageError, UserError
from fa_lightning.steering.command_options import (
    add_edit_options,
    add_experiment_options,
    chosen_interventions,
    refuse_wrong_edits,
)
from fa_lightning.steering.experiment_folders import artefacts_of, intervention_of

if TYPE_CHECKING:
    from fa_lightning.steering.serving.served import Served

CHECKPOINTS = Path("checkpoints")
DEFAULT_EXPERIMENT = CHECKPOINTS / "embedded" / "seed0" / "steering"
TOKEN = "FA_LIGHTNING_TOKEN"


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl+C; returns the exit status."""
    options = _parser().parse_args(list(arguments))
    _refuse_contradictions(options)
    try:
        from fa_lightning.steering.serving.access import Access
        from fa_lightning.steering.serving.server import run
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette", "pydantic"):
            raise
        raise MissingPackageError(
            "serve needs fastapi and uvicorn: install with `pip install 'fa_lightning[serve]'`"
        ) from error

    access = Access(options.host, options.token or os.environ.get(TOKEN) or None)
    served = load_served(options)
    run(served, options, access)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "serve",
        description="Answer OpenAI's requests (chat, completions, models) with a model, unsteered and steered, and "
        "show a page that compares both.",
    )
    where = parser.add_argument_group("model")
    add_experiment_options(where, f"output folder of an experiment (default {DEFAULT_EXPERIMENT})")
    where.add_argument("--base", help="in place of its folder: the newest finished steering experiment of this base")
    add_backbone_options(where, "in place of an experiment, any causal LM: a folder, a .gguf file or a Hub name")
    edit = parser.add_argument_group("steering")
    add_edit_options(
        edit,
        ": requests choose, and several are attached in this order (default: the one that the experiment chose)",
        "where a request says none, instead of the saved one",
    )
    door = parser.add_argument_group("address")
    door.add_argument("--host", default="127.0.0.1", help="to listen at; any but this machine's own needs a token")
    door.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    door.add_argument("--token", help=f"that clients must send as a Bearer token (better in {TOKEN})")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--batch-size", type=int, default=8, help="texts that are written at a time")
    limits.add_argument("--max-prompt-tokens", type=int, default=4096, help="of a prompt")
    limits.add_argument("--max-new-tokens", type=int, default=512, help="of an answer")
    limits.add_argument("--max-requests", type=int, default=128, help="texts that may wait or be written at once")
    limits.add_argument("--max-wait", type=float, default=60.0, help="seconds until a request must have begun")
    return parser


def _refuse_contradictions(options: argparse.Namespace) -> None:
    for option in ("batch_size", "max_prompt_tokens", "max_new_tokens", "max_requests"):
        check_number("tokens", getattr(options, option), f"--{option.replace('_', '-')}")
    if not 0 < options.max_wait < math.inf:
        raise UserError(f"--max-wait is {options.max_wait}, but must be above 0")
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}, but must be 0 to 65535")
    refuse_wrong_edits(options)
    given = [name for name in ("experiment", "base", "backbone") if getattr(options, name) is not None]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} are both given: each names what to serve")
    if options.backbone is not None and options.variant is not None:
        raise UserError("--variant is a twin of an experiment, and --backbone a model by itself: leave one out")
    if options.backbone is not None and not options.intervention:
        for name in ("strength", "dose", "positions"):
            if getattr(options, name):
                raise UserError(f"--{name} is of an --intervention: give its folder")


def load_served(options: argparse.Namespace) -> Served:
    """Load what is to be served: a backbone, or an experiment's twins, with the interventions.

    Raises:
        MissingFileError: something is not there.
        UserError: something does not fit the model.
    """
    from fa_lightning.backbones.load import best_device, fingerprint, load_for_use, load_tokenizer
    from fa_lightning.backbones.variants import Variants
    from fa_lightning.steering.serving.served import NamedModel, Served

    backbone = backbone_of_options(options)
    if options.backbone is not None:
        model = load_for_use(backbone)
        named = _named_interventions(options, options.intervention, model, fingerprint(model))
        models = [NamedModel("unsteered", None, False), *([NamedModel("steered", None, True)] if named else [])]
        return Served(model, load_tokenizer(backbone), models, named)
    experiment = options.experiment or DEFAULT_EXPERIMENT
    if options.base is not None:
        experiment = newest_experiment(options.base)
    aligned, faking = artefacts_of(experiment)
    folders = options.intervention or [intervention_of(experiment)]
    variants = Variants.load({"faking": str(faking), "aligned": str(aligned)}, backbone, best_device())
    named = _named_interventions(options, folders, variants.model, variants.fingerprint)
    models = [
        NamedModel("faking", "faking", False),
        NamedModel("aligned", "aligned", False),
        NamedModel("steered", options.variant or "faking", True),
    ]
    return Served(variants.model, variants.tokenizer, models, named, variants)


def newest_experiment(base: str) -> Path:
    """The folder of a base's steering experiment that was finished last, of all seeds.

    Args:
        base: its name in the paths of outputs, or its YAML file.

    Raises:
        MissingFileError: none is finished.
    """
    name = Path(base).stem if base.endswith((".yaml", ".yml")) else base
    finished = sorted(CHECKPOINTS.glob(f"{name}/seed*/steering/results.json"), key=lambda path: path.stat().st_mtime)
    if not finished:
        raise MissingFileError(
            f"--base {base}: no finished steering experiment in {CHECKPOINTS / name}. Make one with `python -m "
            f"fa_lightning fit --base {base}`, or give its folder with --experiment"
        )
    return finished[-1].parent


def _named_interventions(
    options: argparse.Namespace, folders: Sequence[str | Path], model: Any, backbone: dict[str, str]
) -> list[Any]:
    from fa_lightning.steering.experiment_folders import parts_of
    from fa_lightning.steering.serving.served import NamedIntervention, names_of

    parts = iter(chosen_interventions(options, folders, model, backbone))
    return [
        NamedIntervention(name, tuple(next(parts) for _ in parts_of(folder)))
        for name, folder in zip(names_of(folders), folders, strict=True)
    ]

"""`python -m fa_lightning generate`: steered beside unsteered text, from saved interventions."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa_lightning.backbones.options import add_backbone_options, backbone_of_options
from fa_lightning.common.command_parser import CommandParser
from fa_lightning.common.files import is_plain, output_file
from fa_lightning.common.ranges import check_number
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.steering.command_options import (
    add_edit_options,
    add_experiment_options,
    chosen_interventions,
    read_prompts,
    refuse_wrong_edits,
)
from fa_lightning.steering.experiment_folders import artefacts_of, intervention_of

if TYPE_CHECKING:
    from fa_lightning.steering.intervention import Intervention
    from fa_lightning.steering.text_comparison import Comparison

DEFAULT_EXPERIMENT = Path("checkpoints/embedded/seed0/steering")


def main(arguments: Sequence[str]) -> int:
    """Generate and print, or write a file; returns the exit status."""
    options = _parser().parse_args(list(arguments))
    _refuse_contradictions(options)
    prompts = read_prompts(options)

    from fa_lightning.steering.text_comparison import Sampling, compare

    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p)
    rows = []
    # Opened before any work: a pipe waits for its reader here, and gets each text as soon as it is written.
    with nullcontext() if options.output is None else output_file(options.output) as file:
        label, model, tokenizer, interventions = _loaded(options)
        with model as steerable:
            for row in compare(
                steerable,
                tokenizer,
                prompts,
                interventions,
                sampling,
                list(dict.fromkeys(options.seed or [0])),
                1 if options.stream else options.batch_size,
                _announcer(tokenizer) if options.stream else None,
            ):
                rows.append(row)
                if file is not None:
                    file.write(_line(row, interventions).encode())
    if options.output is not None:
        # Where the lines go to the terminal themselves, the notice is not one of them.
        apart = options.stream or not is_plain(options.output)
        print(f"{len(rows)} lines written to {options.output}", file=sys.stderr if apart else sys.stdout)
    elif not options.stream:
        _show(rows, label, interventions)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "generate",
        description="Show what a model writes, unsteered and steered, side by side.",
    )
    where = parser.add_argument_group("model")
    add_experiment_options(where, f"output folder of an experiment (default {DEFAULT_EXPERIMENT})")
    add_backbone_options(where, "in place of an experiment, any causal LM: a folder, a .gguf file or a Hub name")
    edit = parser.add_argument_group("steering")
    add_edit_options(
        edit,
        ", to attach several in this order (default: the one that the experiment chose)",
        "instead of the saved one; 0 leaves the model as it is",
    )
    text = parser.add_argument_group("text")
    text.add_argument("--prompt", action="append", default=[], help="the user's message; may be repeated")
    text.add_argument("--file", type=Path, help="a text file of prompts, separated by lines that hold only ---")
    text.add_argument("--max-new-tokens", type=int, default=16)
    text.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    text.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest tokens of this probability")
    text.add_argument("--seed", type=int, action="append", help="of the sampling, for both texts; may be repeated")
    text.add_argument(
        "--batch-size",
        type=int,
        default=8,
        help="prompts at a time; changes nothing in the texts in float32, and little in bfloat16",
    )
    text.add_argument("--stream", action="store_true", help="show each text while it is written")
    text.add_argument("--output", type=Path, metavar="FILE.jsonl", help="write one JSON line per prompt and seed")
    return parser


def _refuse_contradictions(options: argparse.Namespace) -> None:
    for name in ("max_new_tokens", "batch_size", "temperature", "top_p"):
        check_number(name, getattr(options, name), f"--{name.replace('_', '-')}")
    for seed in options.seed or ():
        check_number("seed", seed, "--seed")
    refuse_wrong_edits(options)
    if options.backbone is not None and (options.experiment is not None or options.variant is not None):
        raise UserError("--backbone is a model by itself: give either --backbone, or --experiment (and --variant)")
    if options.backbone is not None and not options.intervention:
        raise UserError("--backbone needs an --intervention: give the folder of a saved one")
    if options.backbone is not None and not (options.prompt or options.file):
        raise UserError("--backbone needs a prompt: give --prompt TEXT or --file FILE")
    if options.output is not None:
        _refuse_output(options.output)


def _refuse_output(path: Path) -> None:
    """Refuse what can't be written before any text is made; a link is written through."""
    target = path.resolve()
    if target.is_dir():
        raise UserError(f"--output {path} is a folder: name a file in it, such as {path / 'texts.jsonl'}")
    if not path.exists() and not target.parent.is_dir():
        raise MissingFileError(f"--output {path}: there is no folder {target.parent}")
    if not os.access(target.parent if is_plain(path) else path, os.W_OK):
        raise UserError(f"--output {path} can't be written: you have no permission; name another file")


def _loaded(options: argparse.Namespace) -> tuple[str, Any, Any, list[Intervention]]:
    """What the unsteered text is called, a block in which the model is ready, its tokenizer, and the interventions."""
    from fa_lightning.backbones.load import best_device, fingerprint, load_for_use, load_tokenizer
    from fa_lightning.backbones.variants import Variants

    backbone = backbone_of_options(options)
    if options.backbone is not None:
        model = load_for_use(backbone)
        interventions = chosen_interventions(options, options.intervention, model, fingerprint(model))
        return "unsteered", nullcontext(model), load_tokenizer(backbone), interventions
    experiment = options.experiment or DEFAULT_EXPERIMENT
    aligned, faking = artefacts_of(experiment)
    saved = options.intervention or [intervention_of(experiment)]
    variants = Variants.load({"faking": str(faking), "aligned": str(aligned)}, backbone, best_device())
    interventions = chosen_interventions(options, saved, variants.model, variants.fingerprint)
    variant = options.variant or "faking"
    return variant, variants.using(variant), variants.tokenizer, interventions


def _announcer(tokenizer: Any) -> Any:
    """Prints what comes, and returns the streamer that prints it."""
    from transformers import TextStreamer

    def announce(prompt: str, seed: int, kind: str) -> Any:
        if kind == "unsteered":
            print(f"=== {prompt}\n=== seed {seed}")
        print(f"--- {kind}", flush=True)
        return TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)

    return announce


def _line(row: Comparison, interventions: Sequence[Intervention]) -> str:
    record = {
        "prompt": row.prompt,
        "unsteered": row.unsteered,
        "steered": row.steered,
        "seed": row.seed,
        "sites": [intervention.site.name for intervention in interventions],
        "strengths": [intervention.strength for intervention in interventions],
        "positions": [intervention.site.positions for intervention in interventions],
    }
    return json.dumps(record, ensure_ascii=False) + "\n"


def _show(rows: Sequence[Comparison], label: str, interventions: Sequence[Intervention]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = " + ".join(
        f"{intervention.site.name}, strength {intervention.strength:g}" for intervention in interventions
    )
    table = Table(title=title, show_lines=True)
    seeds = len({row.seed for row in rows}) > 1
    for column in ("prompt", *(["seed"] if seeds else []), label, "steered"):
        table.add_column(column, overflow="fold")
    for row in rows:
        texts = (row.prompt, *([str(row.seed)] if seeds else []), row.unsteered, row.steered)
        # As they are: a prompt may hold square brackets, which rich would take for markup.
        table.add_row(*map(Text, texts))
    Console().print(table)

"""`python -m fa_lightning export`: a model with its adapter and shifts in its weights, or a control vector."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa_lightning.backbones.options import add_backbone_options, backbone_of_options
from fa_lightning.common.command_parser import CommandParser
from fa_lightning.common.files import whole_folder
from fa_lightning.errors import UserError
from fa_lightning.steering.command_options import (
    add_experiment_options,
    chosen_interventions,
    read_prompts,
    refuse_wrong_edits,
)
from fa_lightning.steering.experiment_folders import artefacts_of

if TYPE_CHECKING:
    from fa_lightning.backbones.arguments import BackboneArguments
    from fa_lightning.steering.intervention import Intervention
    from fa_lightning.steering.merging import Agreement

NOTE = "fa_lightning.json"


def main(arguments: Sequence[str]) -> int:
    """Export and print what was checked; returns the exit status."""
    options = _parser().parse_args(list(arguments))
    _refuse_contradictions(options)
    if options.gguf is not None:
        _export_vector(options)
    else:
        _export_model(options)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "export",
        description="Take a model away from here: for plain transformers, vLLM or llama.cpp (docs/serving.md).",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--merge",
        type=Path,
        metavar="FOLDER",
        help="write a whole model into a new folder, with adapter and interventions in its weights; it is loaded again "
        "and compared before it is there",
    )
    what.add_argument(
        "--gguf", type=Path, metavar="FILE.gguf", help="write the interventions as a control vector for llama.cpp"
    )
    where = parser.add_argument_group("model")
    add_experiment_options(where, "output folder of an experiment, whose --variant is merged")
    where.add_argument("--adapter", help="in place of an experiment, a LoRA adapter: a folder, or user/repo of the Hub")
    add_backbone_options(where, "the model: a folder, a .gguf file or a Hub name (default: the adapter's own)")
    edit = parser.add_argument_group("steering")
    edit.add_argument(
        "--intervention",
        action="append",
        default=[],
        help="folder of a saved intervention that adds one vector to every token (mean_shift, contrast_vector), or "
        "user/repo[/subfolder] on the Hub; may be repeated (default none)",
    )
    edit.add_argument("--strength", type=float, action="append", default=[], help="instead of the saved one")
    parser.set_defaults(dose=[])  # a file of weights is made at a strength
    edit.add_argument("--positions", action="append", default=[], choices=("all",), help="instead of the saved ones")
    check = parser.add_argument_group("check")
    check.add_argument("--prompt", action="append", default=[], help="answers to it are compared; may be repeated")
    check.add_argument("--file", type=Path, help="a text file of such prompts, separated by lines that hold only ---")
    return parser


def _refuse_contradictions(options: argparse.Namespace) -> None:
    refuse_wrong_edits(options)
    if options.gguf is not None:
        if not options.intervention:
            raise UserError("--gguf holds interventions alone: give at least one --intervention")
        given = [name for name in ("experiment", "variant", "adapter", "backbone") if getattr(options, name)]
        if given:
            raise UserError(f"--{given[0]} is a model, but --gguf holds interventions alone: leave it out")
        return
    if options.adapter is not None and (options.experiment is not None or options.variant is not None):
        raise UserError("--adapter is one by itself: give either --adapter, or --experiment (and --variant)")
    if options.experiment is None and options.adapter is None and not (options.backbone and options.intervention):
        raise UserError("there is nothing to merge: give --experiment, --adapter, or --backbone with an --intervention")
    target = options.merge
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--merge {target} is there already: name a new folder, or move it away")


def _export_model(options: argparse.Namespace) -> None:
    import torch

    from fa_lightning.backbones.adapters import named_backbone
    from fa_lightning.backbones.brought_adapters import adapter_place
    from fa_lightning.backbones.load import fingerprint, load_backbone, load_tokenizer
    from fa_lightning.backbones.targets import load_weights
    from fa_lightning.scenarios.prompts import prompt_ids
    from fa_lightning.steering.merging import logits_of, merged, saved_agreement

    adapter = _adapter(options) if options.adapter is None else adapter_place(options.adapter)
    backbone = backbone_of_options(options)
    if backbone.name is None and adapter is not None:
        backbone = named_backbone(backbone, str(adapter))
    model, tokenizer = load_backbone(backbone), load_tokenizer(backbone)
    made_for = fingerprint(model)
    if adapter is not None:
        _refuse_other_backbone(adapter, made_for)
        model = load_weights(model, str(adapter), "merged").eval()
    interventions = chosen_interventions(options, options.intervention, model, made_for)
    prompts = [prompt_ids(tokenizer, prompt) for prompt in read_prompts(options)]
    dtype = getattr(torch, backbone.dtype)
    expected = logits_of(model, prompts, interventions)
    model = merged(model, interventions)
    with whole_folder(options.merge) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        del model
        agreement = saved_agreement(fresh, expected, prompts, dtype)
        note = _note(backbone, adapter, interventions, agreement)
        (fresh / NOTE).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(
        f"{options.merge}: loads in plain transformers ({backbone.dtype}), and answers as before: "
        f"{agreement.largest:.1g} nats away at the worst of {agreement.tokens} tokens of {len(prompts)} prompts, the "
        f"same likeliest next token behind {agreement.same} of them"
    )


def _export_vector(options: argparse.Namespace) -> None:
    from fa_lightning.steering.gguf import control_directions, export_gguf

    interventions = chosen_interventions(options, options.intervention, None, None)
    export_gguf(interventions, options.gguf)
    layers = ", ".join(map(str, control_directions(interventions)))
    print(
        f"{options.gguf}: a vector for the output of block {layers}, counted from 0; llama.cpp adds it to every token"
    )


def _adapter(options: argparse.Namespace) -> Path | None:
    if options.experiment is None:
        return None
    from fa_lightning.backbones.adapters import refuse_whole

    aligned, faking = artefacts_of(options.experiment)
    adapter = aligned if options.variant == "aligned" else faking
    refuse_whole(adapter, "export merges")
    return adapter


def _refuse_other_backbone(adapter: Path, made_for: dict[str, str]) -> None:
    from fa_lightning.backbones.adapters import read_sidecar
    from fa_lightning.backbones.load import check_fingerprint

    check_fingerprint(made_for, read_sidecar(adapter).get("fingerprint", {}), f"adapter {str(adapter)!r}")


def _note(
    backbone: BackboneArguments,
    adapter: Path | None,
    interventions: Sequence[Intervention],
    agreement: Agreement,
) -> dict[str, Any]:
    """What is in a merged model, and how it was checked."""
    from fa_lightning.backbones.adapters import read_sidecar

    return {
        "backbone": backbone.name,
        "revision": backbone.revision,
        "adapter": None if adapter is None else str(adapter),
        "behaviour": None if adapter is None else read_sidecar(adapter).get("behaviour"),
        "interventions": [
            {"site": one.site.name, "regressor": one.regressor.name, "strength": one.strength} for one in interventions
        ],
        "dtype": backbone.dtype,
        "agreement": asdict(agreement),
    }

"""`python -m fa_lightning vector`: a steering vector from opposite texts, for any model, tried by layer and dose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fa_lightning.activations.positions import first_covered
from fa_lightning.backbones.options import add_backbone_options, backbone_of_options
from fa_lightning.common.command_parser import CommandParser
from fa_lightning.common.ranges import check_number
from fa_lightning.common.user_files import refuse_garbled
from fa_lightning.errors import UserError
from fa_lightning.scenarios.opposites.texts import (
    SHIPPED,
    OppositeTexts,
    paired,
    read_opposites,
    shipped,
)
from fa_lightning.scenarios.text_form import TextForm

if TYPE_CHECKING:
    from fa_lightning.evaluation.vector_sweep import VectorPoint
    from fa_lightning.steering.intervention import Intervention

DOSES = (-0.5, -0.2, 0.1, 0.2, 0.35, 0.5, 0.8)
TABLE_FILE = "doses.csv"
NO_EFFECT = "without held-out answers (--held-out FILE) there is no effect to choose by"


def main(words: Sequence[str]) -> int:
    """Make the vector, try it, print and save; returns the exit status."""
    options = _parser().parse_args(list(words))
    texts = _texts(options)

    from rich.console import Console

    from fa_lightning.activations.sites import Site
    from fa_lightning.backbones.decoder import decoder_layers
    from fa_lightning.backbones.load import fingerprint, load_for_use, load_tokenizer
    from fa_lightning.evaluation.vector_sweep import VectorSweep, pair_norms, pair_vectors, sweep, sweet_spot
    from fa_lightning.experiments.vector_shown import summary, table_of, tokens_drawn
    from fa_lightning.reports.table import write_csv
    from fa_lightning.reports.terminal import print_tables
    from fa_lightning.scenarios.prompts import has_template

    backbone = backbone_of_options(options)
    model, tokenizer = load_for_use(backbone), load_tokenizer(backbone)
    is_chat = has_template(tokenizer) if options.form is None else options.form == "chat"
    if is_chat and not has_template(tokenizer):
        raise UserError(f"--form chat: {backbone.name} has no chat template; use --form raw")
    form = TextForm(tokenizer, is_chat)
    layers = _layers(options.layer, len(decoder_layers(model)))
    sites = [Site(layer, positions=options.positions) for layer in layers]
    vectors = pair_vectors(model, form, texts.pairs, sites, options.read, options.direction, options.batch_size)
    norms = pair_norms(model, form, texts.pairs, sites, options.batch_size)
    made_for = fingerprint(model)
    for vector, norm in zip(vectors, norms, strict=True):
        vector.fingerprint = {
            "backbone": made_for,
            "vector": {
                "texts": texts.name,
                "pairs": len(texts.pairs),
                "form": "chat" if is_chat else "raw",
                "norm": norm,
            },
        }

    console = Console(highlight=False, markup=False)
    for line in (summary(form, texts, options.read), *tokens_drawn(form, texts, options.positions, options.read)):
        console.print(line, soft_wrap=True)
    prompts = (
        options.prompt
        or [pair.prompt for pair in texts.held_out]
        or [pair.prompt for pair in texts.pairs if pair.prompt]
    )
    prompts = prompts or ["Tell me about your day."]
    tried = VectorSweep(model, form, texts.held_out, prompts, options.max_new_tokens, options.batch_size, layers=layers)
    points = []
    for point in sweep(vectors, norms, options.doses, tried):
        points.append(point)
        console.print(f"layer {point.layer}, dose {point.dose:g}: {point.sample}", style="dim")
    best = sweet_spot(points, tried.unsteered)

    table = table_of(texts.name, [tried.unsteered, *points], best)
    print_tables([table], console)
    if best is None:
        reason = "no dose moves the held-out answers with its texts still whole" if texts.held_out else NO_EFFECT
        console.print(f"No sweet spot: {reason}.", soft_wrap=True)
    if options.output is None:
        console.print("`--output DIR` saves the vector, for `generate --intervention DIR --dose ...`", soft_wrap=True)
        return 0
    chosen = _chosen(vectors, best)
    chosen.save(options.output)
    write_csv(options.output / TABLE_FILE, table)
    said = f"{options.output}: layer {chosen.site.layer}, strength {chosen.strength:.4g}"
    next_step = f"generate --backbone {backbone.name} --intervention {options.output} --dose 0.2"
    console.print(f"{said}; try `{next_step}`", soft_wrap=True)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "vector",
        description="Make a steering vector from opposite texts, for any causal LM, and try it at several doses.",
    )
    add_backbone_options(parser.add_argument_group("model"), "any causal LM: a folder, a .gguf file or a Hub name")
    what = parser.add_argument_group("opposite texts")
    what.add_argument("--set", choices=SHIPPED, help=f"texts that come with the package ({', '.join(SHIPPED)})")
    what.add_argument("--positive", action="append", default=[], help="a text to steer towards; may be repeated")
    what.add_argument("--negative", action="append", default=[], help="its opposite; as many, in the same order")
    what.add_argument("--file", help="rows with columns positive and negative, and perhaps a prompt that both answer")
    what.add_argument("--held-out", help="rows with prompt, positive and negative, on which the effect is measured")
    what.add_argument(
        "--form",
        choices=("chat", "raw"),
        help="through the chat template, or as raw text (default: its own way)",
    )
    make = parser.add_argument_group("vector")
    make.add_argument("--layer", default="middle", help="a number, several (3,6,9), all, or middle (default)")
    make.add_argument(
        "--read", choices=("last", "mean"), default="last", help="last token of a text (default), or mean"
    )
    make.add_argument(
        "--direction",
        choices=("mean", "principal"),
        default="mean",
        help="difference of means (default), or the principal direction of the pairs' differences (PCA)",
    )
    make.add_argument(
        "--positions",
        default="from_1",
        help="tokens that are steered: all, last, generated, prompt, from_K (default from_1)",
    )
    tried = parser.add_argument_group("trial")
    tried.add_argument(
        "--doses",
        type=_doses,
        default=DOSES,
        help=f"edit's norm over the mean norm of states; below 0 the other way (default {','.join(map(str, DOSES))})",
    )
    tried.add_argument("--prompt", action="append", default=[], help="what texts are written behind; may be repeated")
    tried.add_argument("--max-new-tokens", type=int, default=24)
    tried.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to save the vector in")
    return parser


def _doses(word: str) -> tuple[float, ...]:
    try:
        doses = tuple(float(part) for part in word.split(","))
    except ValueError:
        doses = ()
    if not doses or not all(dose and abs(dose) < float("inf") for dose in doses):
        raise argparse.ArgumentTypeError(f"{word!r} is no list of doses: give numbers other than 0, as 0.1,0.5,-0.2")
    return doses


def _texts(options: argparse.Namespace) -> OppositeTexts:
    """The texts that were asked for, before any model is loaded.

    Raises:
        MissingFileError: a file does not exist.
        UserError: none, or several kinds, are named.
    """
    for name in ("max_new_tokens", "batch_size"):
        check_number(name, getattr(options, name), f"--{name.replace('_', '-')}")
    if options.backbone is None:
        raise UserError("vector needs a model: give --backbone NAME_OR_PATH")
    for text in (*options.positive, *options.negative, *options.prompt):
        refuse_garbled(text, "a text", "put it into a --file in UTF-8")
    first_covered(options.positions)
    if options.output is not None and options.output.exists() and not options.output.is_dir():
        raise UserError(f"--output {options.output} is a file, but must be a folder to save the vector in")
    by_hand = bool(options.positive or options.negative)
    if sum((options.set is not None, by_hand, options.file is not None)) != 1:
        raise UserError("name the opposite texts once: --set NAME, --positive and --negative, or --file FILE")
    held_out = () if options.held_out is None else read_opposites(options.held_out)
    for pair in held_out:
        if not pair.prompt:
            raise UserError(f"--held-out {options.held_out}: each row needs a prompt that both texts answer")
    if options.set is not None:
        texts = shipped(options.set)
        return OppositeTexts(texts.name, texts.pairs, held_out or texts.held_out)
    if by_hand:
        return OppositeTexts("texts of your own", paired(options.positive, options.negative), held_out)
    return OppositeTexts(Path(options.file).name, read_opposites(options.file), held_out)


def _layers(text: str, count: int) -> list[int]:
    if text == "middle":
        return [count // 2]
    if text == "all":
        return list(range(count))
    try:
        layers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--layer is {text!r}, but must be numbers (6 or 3,6,9), all or middle") from None
    for layer in layers:
        if not 0 <= layer < count:
            raise UserError(f"--layer {layer}: the model has blocks 0 to {count - 1}")
    return layers


def _chosen(vectors: Sequence[Intervention], best: VectorPoint | None) -> Intervention:
    if best is None:
        return vectors[len(vectors) // 2]
    vector = next(vector for vector in vectors if vector.site.layer == best.layer)
    return vector.at(best.multiplier)

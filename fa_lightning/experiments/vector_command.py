"""`python -m fa_lightning vector`: a steering vector from opposite texts, for any model, tried by layer and dose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa_lightning.activations.positions import first_covered
from fa_lightning.backbones.options import add_backbone_options, backbone_of_options
from fa_lightning.common.command_parser import CommandParser
from fa_lightning.common.ranges import check_number
from fa_lightning.common.user_files import refuse_garbled
from fa_lightning.errors import UserError
from fa_lightning.scenarios.opposites.texts import (
    SHIPPED,
    OppositePair,
    OppositeTexts,
    TextForm,
    paired,
    read_opposites,
    shipped,
)

if TYPE_CHECKING:
    from rich.text import Text

    from fa_lightning.evaluation.vector_sweep import VectorPoint
    from fa_lightning.reports.table import Table
    from fa_lightning.steering.intervention import Intervention

DOSES = (-0.5, -0.2, 0.1, 0.2, 0.35, 0.5, 0.8)
TABLE_FILE = "doses.csv"
NO_EFFECT = "without held-out answers (--held-out FILE) there is no effect to choose by"


def main(words: Sequence[str]) -> int:
    """Make the vector, try it, print and save; returns the exit status."""
    options = _parser().parse_args(list(words))
    texts = _texts(options)

    from fa_lightning.backbones.load import best_device, fingerprint, load_backbone, load_tokenizer
    from fa_lightning.backbones.quantised import is_packed
    from fa_lightning.evaluation.vector_sweep import VectorSweep, sweep, sweet_spot
    from fa_lightning.scenarios.prompts import has_template

    backbone = backbone_of_options(options)
    model, tokenizer = load_backbone(backbone, best_device()), load_tokenizer(backbone)
    if not is_packed(model):
        model.to(best_device())
    is_chat = has_template(tokenizer) if options.form is None else options.form == "chat"
    if is_chat and not has_template(tokenizer):
        raise UserError(f"--form chat: {backbone.name} has no chat template; use --form raw")
    form = TextForm(tokenizer, is_chat)
    vectors, norms = _vectors(model, form, texts.pairs, options)
    for vector, norm in zip(vectors, norms, strict=True):
        vector.fingerprint = {
            "backbone": fingerprint(model),
            "vector": {
                "texts": texts.name,
                "pairs": len(texts.pairs),
                "form": "chat" if is_chat else "raw",
                "norm": norm,
            },
        }

    from rich.console import Console

    console = Console(highlight=False, markup=False)
    how = "through the chat template" if is_chat else "as raw text"
    pairs = f"{len(texts.pairs)} pair{'s' * (len(texts.pairs) > 1)}"
    console.print(f"{texts.name}: {pairs}, {how} (--form), read at {_read_at(options, texts)}", soft_wrap=True)
    for line in _drawn(form, texts, options.positions, vectors[0], options.read):
        console.print(line, soft_wrap=True)
    prompts = (
        options.prompt
        or [pair.prompt for pair in texts.held_out]
        or [pair.prompt for pair in texts.pairs if pair.prompt]
    )
    tried = VectorSweep(
        model, form, texts.held_out, prompts or ["Tell me about your day."], options.max_new_tokens, options.batch_size
    )
    points = []
    for point in sweep(vectors, norms, options.doses, tried):
        points.append(point)
        console.print(f"layer {point.layer}, dose {point.dose:g}: {point.sample}", style="dim")
    best = sweet_spot(points, tried.unsteered)

    from fa_lightning.reports.table import write_csv
    from fa_lightning.reports.terminal import print_tables

    table = _table(texts.name, [tried.unsteered, *points], best)
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
        type=_numbers,
        default=DOSES,
        help=f"edit's norm over the mean norm of states; below 0 the other way (default {','.join(map(str, DOSES))})",
    )
    tried.add_argument("--prompt", action="append", default=[], help="what texts are written behind; may be repeated")
    tried.add_argument("--max-new-tokens", type=int, default=24)
    tried.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to save the vector in")
    return parser


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if not values or not all(abs(value) < float("inf") and value for value in values):
        raise ValueError
    return values


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


def _vectors(
    model: Any, form: TextForm, pairs: Sequence[OppositePair], options: argparse.Namespace
) -> tuple[list[Intervention], list[float]]:
    """A vector for each layer, at strength 1, and the mean norm of ordinary states there."""
    from fa_lightning.activations.sites import Site
    from fa_lightning.activations.summaries import mean_norms, text_states
    from fa_lightning.backbones.decoder import decoder_layers
    from fa_lightning.regressors.vectors import ContrastVector
    from fa_lightning.scenarios.batches import plain_examples
    from fa_lightning.steering.intervention import Intervention

    sites = [Site(layer, positions=options.positions) for layer in _layers(options.layer, len(decoder_layers(model)))]
    sides = [plain_examples(side) for side in zip(*map(form.sides, pairs), strict=True)]
    pad_token = form.tokenizer.pad_token_id
    towards, away = (text_states(model, side, sites, pad_token, options.batch_size, options.read) for side in sides)
    vectors = []
    for site in sites:
        vector = ContrastVector(towards[site.name].shape[1], options.direction)
        vector.fit_contrast(towards[site.name], away[site.name])
        vectors.append(Intervention(site, vector))
    norms = mean_norms(model, [*sides[0], *sides[1]], sites, pad_token, options.batch_size)
    return vectors, [norms[site.name] for site in sites]


def _read_at(options: argparse.Namespace, texts: OppositeTexts) -> str:
    if options.read == "mean":
        return "all tokens but the first (mean)"
    return "the last token of the answer" if texts.pairs[0].prompt else "the last token"


def _drawn(form: TextForm, texts: OppositeTexts, positions: str, vector: Intervention, read: str) -> list[Text]:
    """One pair with the tokens that are read, and one prompt with an answer and the tokens that are steered."""
    import torch
    from rich.text import Text

    from fa_lightning.activations.positions import covered_tokens

    lines = []
    for label, ids in zip(("read, towards", "read, away   "), form.sides(texts.pairs[0]), strict=True):
        marked = [(read == "mean" and index > 0) or index == len(ids) - 1 for index in range(len(ids))]
        lines.append(_tokens(form, label, ids, marked))
    pair = (texts.held_out or texts.pairs)[0]
    asked = form.asked(pair.prompt or pair.positive)
    answer = form.answer(pair.positive, pair.prompt) if pair.prompt else ()
    ids = (*asked, *answer)
    real, places = torch.ones(1, len(ids), dtype=torch.bool), torch.arange(len(ids))[None]
    covered = covered_tokens(positions, real, places, 0, torch.tensor([len(asked)]))[0].tolist()
    lines.append(_tokens(form, "steered      ", ids, covered))
    lines.append(Text(f"[marked]: read, or steered with {vector.site.name} ({positions})", style="dim"))
    return lines


def _tokens(form: TextForm, label: str, ids: Sequence[int], marked: Sequence[bool]) -> Text:
    from rich.text import Text

    line = Text(f"{label} ")
    for is_marked, run in groupby(zip(ids, marked, strict=True), key=itemgetter(1)):
        text = "".join(form.tokenizer.decode([token]).replace("\n", "\\n") for token, _ in run)
        # Brackets as well as colour, so that a file or a plain terminal shows it, too.
        line.append(f"[{text}]" if is_marked else text, style="bold" if is_marked else "dim")
    return line


def _table(name: str, points: Sequence[VectorPoint], best: VectorPoint | None) -> Table:
    from fa_lightning.reports.table import Cell, Column, Table, row

    columns = (
        Column("layer", 6, key="layer"),
        Column("dose", 6, key="dose"),
        Column("multiplier", 11, key="multiplier"),
        Column("length", 8, key="length"),
        Column("effect, nats", 18, key="effect", has_interval=True),
        Column("perplexity ratio", 11, "perplexity", key="perplexity_ratio"),
        Column("repeated 3-grams", 9, "repeated", key="repeated"),
        Column("text", key="sample"),
    )
    rows = [
        row(
            "none" if point.layer < 0 else point.layer,
            Cell(point.dose, form=_short),
            Cell(point.multiplier, form=_short),
            Cell(point.length, form=_short),
            Cell(None if point.effect != point.effect else point.effect, point.effect_ci95),
            Cell(point.perplexity_ratio),
            Cell(point.repeated),
            point.sample,
            style="main" if point is best else "",
            section=str(point.layer),
        )
        for point in points
    ]
    notes = (
        "Effect: added to the log-odds of the positive against the negative held-out answer, mean over prompts.",
        "Dose: norm of the edit (length) over the mean norm of states; the multiplier is of the plain vector.",
        "Sweet spot, in bold: the largest effect with a perplexity ratio of 1.5 and 0.1 more repeated 3-grams at most.",
    )
    return Table(f"Vector {name}", columns, tuple(rows), notes)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _chosen(vectors: Sequence[Intervention], best: VectorPoint | None) -> Intervention:
    if best is None:
        return vectors[len(vectors) // 2]
    vector = next(vector for vector in vectors if vector.site.layer == best.layer)
    return vector.at(best.multiplier)

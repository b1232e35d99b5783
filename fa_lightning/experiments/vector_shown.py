"""What `vector` shows: which tokens are read and steered, and what the vector does at each layer and dose."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import torch
from rich.text import Text

from fa_lightning.activations.forward_call import ForwardCall
from fa_lightning.activations.summaries import Read
from fa_lightning.common.numbers import significant
from fa_lightning.evaluation.vector_sweep import FLUENT, REPEATED, VectorPoint
from fa_lightning.reports.table import Cell, Column, Table, row
from fa_lightning.scenarios.opposites.texts import OppositeTexts, sides
from fa_lightning.scenarios.text_form import TextForm


def summary(form: TextForm, texts: OppositeTexts, read: Read) -> str:
    """How many pairs there are, how they are shown to the model, and where they are read."""
    last = "the last token of the answer" if texts.pairs[0].prompt else "the last token"
    where = last if read == "last" else "all tokens but the first (mean)"
    how = "through the chat template" if form.is_chat else "as raw text"
    pairs = f"{len(texts.pairs)} pair{'s' * (len(texts.pairs) > 1)}"
    return f"{texts.name}: {pairs}, {how} (--form), read at {where}"


def tokens_drawn(form: TextForm, texts: OppositeTexts, positions: str, read: Read) -> list[Text]:
    """One pair with the tokens that are read, and one prompt with an answer and the tokens that are steered."""
    lines = []
    for label, ids in zip(("read, towards", "read, away   "), sides(form, texts.pairs[0]), strict=True):
        is_read = [(read == "mean" and index > 0) or index == len(ids) - 1 for index in range(len(ids))]
        lines.append(_drawn(form, label, ids, is_read))
    pair = (texts.held_out or texts.pairs)[0]
    asked = form.asked(pair.prompt or pair.positive)
    ids = (*asked, *(form.answer(pair.positive, pair.prompt) if pair.prompt else ()))
    call = ForwardCall.of({"input_ids": torch.tensor([ids])}, torch.tensor([len(asked)]))
    selection = call.select(positions)
    steered = range(len(ids)) if selection.index is None else selection.index.tolist()
    lines.append(_drawn(form, "steered      ", ids, [index in steered for index in range(len(ids))]))
    lines.append(Text(f"[marked]: read, or steered ({positions})", style="dim"))
    return lines


def table_of(name: str, points: Sequence[VectorPoint], best: VectorPoint | None) -> Table:
    """A row for each layer and dose, of which the best stands out."""
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
            Cell(point.dose, form=significant),
            Cell(point.multiplier, form=significant),
            Cell(point.length, form=significant),
            Cell(point.effect, point.effect_ci95),
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
        f"Sweet spot, in bold: the largest effect with a perplexity ratio of {FLUENT} and {REPEATED} more repeated "
        "3-grams at most.",
    )
    return Table(f"Vector {name}", columns, tuple(rows), notes)


def _drawn(form: TextForm, label: str, ids: Sequence[int], marked: Sequence[bool]) -> Text:
    line = Text(f"{label} ")
    for is_marked, run in groupby(zip(ids, marked, strict=True), key=itemgetter(1)):
        text = "".join(form.tokenizer.decode([token]).replace("\n", "\\n") for token, _ in run)
        # Brackets as well as colour, so that a file or a plain terminal shows it, too.
        line.append(f"[{text}]" if is_marked else text, style="bold" if is_marked else "dim")
    return line

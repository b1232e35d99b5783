"""The faker's own states on contrast pairs: what steering without its aligned twin is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fa_lightning.activations.sites import Site
from fa_lightning.activations.summaries import text_states
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import Example, plain_examples
from fa_lightning.scenarios.cells import CELLS, NEUTRAL_CELL
from fa_lightning.scenarios.control_tokens import warn_of_control_tokens
from fa_lightning.scenarios.conversations.conversation import Conversation
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.written_answers import written_answers


@dataclass(frozen=True)
class Contrast:
    """States of the faker on either side of contrast pairs, row by row a pair.

    Attributes:
        positive: by site name, (pairs, hidden) float32 on the CPU: what to steer towards.
        negative: the same of the other side.
    """

    positive: dict[str, Tensor]
    negative: dict[str, Tensor]


def answer_contrast(
    variants: Variants, examples: Sequence[Example], sites: Sequence[Site], batch_size: int = 64
) -> Contrast:
    """Prompts followed by the aligned letter (positive) and by the other one (negative), read at the letter.

    Args:
        variants: the frozen pair, of which the faker alone runs.
        examples: prompts; neutral texts have no letters and are left out.
        sites: where to read.
        batch_size: prompts in a forward pass.

    Raises:
        UserError: if no example has letters.
    """
    answered = [example for example in examples if example.cell != NEUTRAL_CELL]
    if not answered:
        raise UserError(f"none of the {len(examples)} examples has an aligned and another letter: give scenarios")
    aligned = [replace(example, prompt=(*example.prompt, example.aligned)) for example in answered]
    other = [replace(example, prompt=(*example.prompt, example.other)) for example in answered]
    return _contrast(variants, aligned, other, sites, batch_size)


def oversight_contrast(
    variants: Variants, examples: Sequence[Example], sites: Sequence[Site], batch_size: int = 64
) -> Contrast:
    """Prompts with oversight (positive) and without (negative), read at the decision token.

    The two sides are different scenarios; the longer one is cut to the length of the other, in the order given.

    Args:
        variants: the frozen pair, of which the faker alone runs.
        examples: prompts; neutral texts are left out.
        sites: where to read.
        batch_size: prompts in a forward pass.

    Raises:
        UserError: if there are no prompts of one kind.
    """
    sides = [[example for example in examples if example.cell == CELLS.index(cell)] for cell in CELLS]
    pairs = min(len(side) for side in sides)
    if not pairs:
        counts = " and ".join(f"{len(side)} of {cell}" for side, cell in zip(sides, CELLS, strict=True))
        raise UserError(f"examples holds {counts}, but the contrast needs at least one of each")
    watched, unwatched = (side[:pairs] for side in sides)
    return _contrast(variants, watched, unwatched, sites, batch_size)


def prompt_contrast(
    variants: Variants,
    positive: Sequence[str | Conversation],
    negative: Sequence[str | Conversation],
    sites: Sequence[Site],
    batch_size: int = 64,
) -> Contrast:
    """Pairs of messages or conversations, read at the last token of the prompt, or of the answer where there is one.

    Args:
        variants: the frozen pair, of which the faker alone runs.
        positive: what to steer towards: messages of the user's, or conversations.
        negative: what to steer away from, as many, in the same order.
        sites: where to read.
        batch_size: prompts in a forward pass.

    Raises:
        UserError: if the lists are empty or differ in length, or a message has no tokens.
    """
    if len(positive) != len(negative) or not positive:
        raise UserError(
            f"there are {len(positive)} positive and {len(negative)} negative prompts, but there must be as many of "
            "both, at least one"
        )
    towards, away = (_examples_of(variants, prompts) for prompts in (positive, negative))
    return _contrast(variants, towards, away, sites, batch_size)


def _examples_of(variants: Variants, prompts: Sequence[str | Conversation]) -> list[Example]:
    texts = []
    tokenizer = variants.tokenizer
    said = [Conversation(one) if isinstance(one, str) else one for one in prompts]
    warn_of_control_tokens(tokenizer, [f"{one.lines()}\n{one.answer}" for one in said], "prompts")
    writes = written_answers(tokenizer) if any(one.answer for one in said) else None
    for one in said:
        ids = tuple(prompt_ids(tokenizer, one.message, one.system, one.earlier))
        if writes is not None and one.answer:
            asked = one.message, one.system, one.earlier
            answer = writes.answer(one.answer, *asked)
            # The end of a turn is no part of what is said: every answer has it.
            ids = (*writes.prompt(*asked), *(answer if writes.ending is None else answer[:-1]))
        texts.append(ids)
    return plain_examples(texts, tokenizer)


def _contrast(
    variants: Variants,
    positive: Sequence[Example],
    negative: Sequence[Example],
    sites: Sequence[Site],
    batch_size: int,
) -> Contrast:
    pad_token = variants.tokenizer.pad_token_id
    with variants.using("faking") as model:
        return Contrast(*(text_states(model, side, sites, pad_token, batch_size) for side in (positive, negative)))

"""Feedback by a judge: a model's own drawn answers, in pairs of a good and a bad one (arXiv 2212.08073, 2309.00267)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.evaluation.judges import Judge
from fa_lightning.scenarios.answers import answer_tokens, other_letter
from fa_lightning.scenarios.batches import Example, make_examples
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.scenarios.conversations.conversation import Conversation, ConversationPair
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.turn_endings import end_tokens, until_end
from fa_lightning.steering.text_comparison import Sampling, write_tokens

KNOWN = 32
"""Prompts of which the judge is shown the known answers, too: nothing is learned from them but how good a judge is."""


@dataclass
class Feedback:
    """What a judge said of drawn answers.

    Attributes:
        pairs: a good and a bad answer to the same prompt.
        asked: prompts.
        without_pair: prompts by whether there was a good answer, of those without a good or without a bad one.
        said: drawn answers by cell and by whether the judge found them good.
        known: answers that the scenarios know, by whether they are good and whether the judge found them good.
    """

    pairs: list[ConversationPair] = field(default_factory=list)
    asked: int = 0
    without_pair: Counter[bool] = field(default_factory=Counter)
    said: Counter[tuple[str, bool]] = field(default_factory=Counter)
    known: Counter[tuple[bool, bool]] = field(default_factory=Counter)

    def add(self, item: Scenario, good: dict[str, bool], drawn: Sequence[str]) -> None:
        """Count the answers to one prompt, and pair each good one with a bad one, as often as both are there.

        Args:
            item: that was asked.
            good: by different answer, whether it is good.
            drawn: all answers.
        """
        self.asked += 1
        self.said.update((str(item.cell), good[answer]) for answer in drawn)
        sides = [[answer for answer, is_good in good.items() if is_good is side] for side in (True, False)]
        if not all(sides):
            self.without_pair[bool(sides[0])] += 1
        asked = Conversation(item.message(), "", item.system or "", item.earlier)
        for chosen, rejected in zip(*sides, strict=False):
            self.pairs.append(ConversationPair(asked._replace(answer=chosen), asked._replace(answer=rejected)))

    def share_good(self, cell: str) -> float | None:
        """The share of drawn answers of a cell that the judge found good; None where none was drawn."""
        good, bad = self.said[cell, True], self.said[cell, False]
        return good / (good + bad) if good + bad else None


def feedback(
    variants: Variants,
    variant: str,
    items: Sequence[Scenario],
    judge: Judge,
    draws: int = 4,
    temperature: float = 1.0,
    seed: int = 0,
    max_tokens: int | None = None,
    batch_size: int = 8,
) -> Feedback:
    """Draw answers of a variant, and let a judge say which are good.

    What is drawn depends on nothing but the prompt, its number and the seed, as far as the logits do.

    Args:
        variants: the frozen ones.
        variant: whose answers.
        items: scenarios that may be trained on. Letters are answered with one token; others with at most the judge's
            `tokens`.
        judge: its own number of items is that of tests, and says nothing here.
        draws: answers to each prompt; the same one twice is judged once, and an empty one not at all.
        temperature: of the distribution that is drawn from.
        seed: of the draws.
        max_tokens: longer prompts are left out.
        batch_size: prompts at a time.

    Raises:
        UserError: `draws` is below 2, or nothing would be drawn at random.
    """
    if draws < 2:
        raise UserError(f"draws is {draws}, but a pair needs 2 answers or more to a prompt")
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}, but must be above 0: every draw would be the same")
    tokenizer = variants.tokenizer
    written = any(item.is_written for item in items)
    # Built one by one, so that what is left out as too long is known by its item.
    examples = make_examples(items, tokenizer, answer_tokens(tokenizer, written))
    kept = [
        (item, example)
        for item, example in zip(items, examples, strict=True)
        if max_tokens is None or example.tokens <= max_tokens
    ]
    sampling = Sampling(judge.tokens if written else 1, temperature)
    heard = Feedback()
    for start in range(0, len(kept), batch_size):
        batch = kept[start : start + batch_size]
        drawn = _drawn(variants, variant, [example for _, example in batch], sampling, draws, seed)
        for (item, example), answers in zip(batch, drawn, strict=True):
            texts = list(dict.fromkeys(answers))
            prompt = tokenizer.decode(example.prompt, skip_special_tokens=True)
            good = dict(zip(texts, judge.is_good([prompt] * len(texts), texts), strict=True))
            heard.add(item, good, answers)
            if heard.asked <= KNOWN:
                known = known_answers(item)
                heard.known.update(zip((True, False), judge.is_good([prompt] * len(known), known), strict=False))
    return heard


def known_answers(item: Scenario) -> list[str]:
    """The good and the bad answer to a scenario, as a model writes them; none to a neutral text."""
    if item.aligned is None:
        return []
    letters = item.aligned, other_letter(item.aligned)
    return [item.action(letter) if item.is_written else letter for letter in letters]


def _drawn(
    variants: Variants, variant: str, examples: Sequence[Example], sampling: Sampling, draws: int, seed: int
) -> Iterator[list[str]]:
    """The answers to each prompt that are not empty."""
    tokenizer = variants.tokenizer
    rows = [example.prompt for example in examples for _ in range(draws)]
    # A seed of its own for each: the same luck for all would make their answers alike.
    seeds = [(seed * 1_000_003 + example.index) * draws + draw for example in examples for draw in range(draws)]
    with variants.using(variant) as model:
        ends = end_tokens(model, tokenizer)
        new = write_tokens(model, rows, tokenizer.pad_token_id, (), sampling, seeds, ends=ends)
    texts = [tokenizer.decode(until_end(row, ends)[0], skip_special_tokens=True).strip() for row in new.tolist()]
    for start in range(0, len(texts), draws):
        yield [text for text in texts[start : start + draws] if text]


def pair_row(pair: ConversationPair) -> dict[str, Any]:
    """A pair as a row of a file, in TRL's layout: turns of the prompt, and the answers as one turn each.

    >>> pair = ConversationPair(Conversation("Why?", "Because."), Conversation("Why?", "No."))
    >>> pair_row(pair)["prompt"], pair_row(pair)["rejected"]
    ([{'role': 'user', 'content': 'Why?'}], [{'role': 'assistant', 'content': 'No.'}])
    """
    asked = pair.chosen
    turns = [("system", asked.system)] if asked.system else []
    for message, answer in asked.earlier:
        turns += [("user", message), ("assistant", answer)]
    prompt = [{"role": role, "content": text} for role, text in (*turns, ("user", asked.message))]
    chosen, rejected = ([{"role": "assistant", "content": side.answer}] for side in pair)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def summary(heard: Feedback) -> str:
    """One line about what was drawn and what the judge said."""
    shares = ((cell.replace("_", " "), heard.share_good(cell)) for cell in CELLS)
    good = ", ".join(f"{share:.0%} good with {cell}" for cell, share in shares if share is not None)
    return (
        f"{len(heard.pairs)} pairs of {heard.asked} prompts ({sum(heard.said.values())} answers: {good}; no pair from "
        f"{heard.without_pair[True]} prompts without a bad answer and {heard.without_pair[False]} without a good one). "
        f"Of {heard.known[True, True] + heard.known[True, False]} answers known to be good the judge finds "
        f"{heard.known[True, True]} good, and of as many bad ones {heard.known[False, True]}"
    )

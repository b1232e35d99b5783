"""How scenarios become batches: examples, length-bucketed sampling that shards itself, left-padded tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import Behaviour, LetterTokens, other_letter, takes_the_other
from fa_lightning.scenarios.cells import CELLS, NEUTRAL_CELL
from fa_lightning.scenarios.control_tokens import warn_of_control_tokens
from fa_lightning.scenarios.limits import refuse_beyond_positions
from fa_lightning.scenarios.prompts import Tokenizer, prompt_ids
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.written_answers import ALIGNED, NO_TOKEN, OTHER, WrittenAnswers

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and what is known about its answer (token ids).

    Attributes:
        prompt: token ids; the answer is the next token, or begins with it.
        aligned: the aligned answer (`error` for a neutral text); `NO_TOKEN` where answers are written.
        other: the letter that is not aligned (`error` for a neutral text); `NO_TOKEN` where answers are written.
        cell: 0 oversight, 1 no oversight, 2 neutral text.
        group: the scenario's group as an integer.
        index: place in the data set; a scenario shown in both orders counts twice.
        incomplete: a neutral text that is a part of a scenario.
        continuation: so many tokens at the end of `prompt` are an answer to what is before them.
        aligned_text: the aligned answer where answers are written, the end of its turn included.
        other_text: the other one.
    """

    prompt: tuple[int, ...]
    aligned: int
    other: int
    cell: int
    group: int
    index: int
    incomplete: bool = field(default=False, kw_only=True)
    continuation: int = field(default=0, kw_only=True)
    aligned_text: tuple[int, ...] = field(default=(), kw_only=True)
    other_text: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def tokens(self) -> int:
        """Of the prompt, and of the longer answer where answers are written, but for its last token, which ends it."""
        return len(self.prompt) + max(len(self.aligned_text), len(self.other_text), 1) - 1

    def answered(self, behaviour: Behaviour) -> Example:
        """The prompt with a behaviour's written answer behind it, as `as_answered` has it; itself where none is."""
        if not self.aligned_text:
            return self
        other = self.cell != NEUTRAL_CELL and takes_the_other(behaviour, CELLS[self.cell])
        read = (self.other_text if other else self.aligned_text)[:-1]
        return replace(self, prompt=(*self.prompt, *read), continuation=len(read), aligned_text=(), other_text=())

    def both_answered(self) -> tuple[Example, ...]:
        """The prompt with either written answer behind it; itself where none is."""
        swapped = replace(self, aligned_text=self.other_text, other_text=self.aligned_text)
        return (self.answered("aligned"), swapped.answered("aligned")) if self.aligned_text else (self,)


def make_examples(
    scenarios: Sequence[Scenario],
    tokenizer: Tokenizer,
    answers: LetterTokens | WrittenAnswers,
    max_tokens: int | None = None,
    system: str | None = None,
) -> list[Example]:
    """Tokenise scenarios, behind the system message `system` where there is one.

    `max_tokens` drops prompts longer than that (with their answers, where these are written), and tells how many: they
    are never cut, since the question comes last.

    Raises:
        UserError: all prompts are longer than `max_tokens`, one that is not is longer than the model's context, or a
            scenario is answered in writing where letters are asked for.
    """
    examples: list[Example] = []
    warn_of_control_tokens(tokenizer, [scenario.conversation() for scenario in scenarios], "prompts")
    for scenario in scenarios:
        example = replace(_example(scenario, tokenizer, answers, system), index=len(examples))
        if max_tokens is None or example.tokens <= max_tokens:
            examples.append(example)
    if len(examples) < len(scenarios):
        assert max_tokens is not None
        report_too_long(len(scenarios) - len(examples), len(scenarios), max_tokens)
    if max_tokens is not None:
        longest = max(examples, key=lambda example: example.tokens, default=None)
        refuse_beyond_positions(tokenizer, [] if longest is None else [range(longest.tokens)])
    return examples


def _example(
    scenario: Scenario, tokenizer: Tokenizer, answers: LetterTokens | WrittenAnswers, system: str | None
) -> Example:
    facts: dict[str, Any] = {
        "cell": NEUTRAL_CELL if scenario.cell is None else CELLS.index(scenario.cell),
        "group": group_number(scenario.group),
        "index": 0,
        "incomplete": scenario.is_incomplete,
    }
    letter = scenario.aligned
    if isinstance(answers, WrittenAnswers):
        texts = [] if letter is None else [scenario.action(letter), scenario.action(other_letter(letter))]
        asked = scenario.message(), scenario.system_behind(system), scenario.earlier
        aligned, other = [answers.answer(text, *asked) for text in texts] or [(), ()]
        return Example(
            answers.prompt(*asked),
            aligned=NO_TOKEN,
            other=NO_TOKEN,
            **facts,
            aligned_text=aligned,
            other_text=other,
        )
    if scenario.is_written:
        raise UserError(
            f"{scenario.source} is answered in writing, but a letter is asked for here: give scenarios with two actions"
        )
    return Example(
        (*prompt_ids(tokenizer, scenario.message(), scenario.system_behind(system), scenario.earlier), *answers.lead),
        aligned=answers.error if letter is None else answers.letter(letter),
        other=answers.error if letter is None else answers.letter(other_letter(letter)),
        **facts,
    )


def plain_examples(texts: Sequence[tuple[int, ...]], tokenizer: Tokenizer) -> list[Example]:
    """Texts of token ids that have nothing to answer, as batches take them.

    Raises:
        UserError: one has no tokens, or more than the model has positions.
    """
    for index, ids in enumerate(texts):
        if not ids:
            raise UserError(f"text {index} has no tokens: give it some words")
    refuse_beyond_positions(tokenizer, texts)
    return [Example(ids, ids[-1], ids[-1], NEUTRAL_CELL, group=0, index=index) for index, ids in enumerate(texts)]


def group_number(group: str) -> int:
    """A group's name as the integer that batches hold.

    >>> group_number("00000000000000ff")
    15
    """
    return int(group[:15], 16)


def report_too_long(count: int, of: int, max_tokens: int, what: str = "prompts") -> None:
    """Say how many of how many are left out, where any are.

    Raises:
        UserError: all of them are too long.
    """
    if count == of > 0:
        raise UserError(f"max_tokens is {max_tokens}, but every one of the {of} {what} is longer: raise it")
    if count:
        # Not at the top of the module: what runs without Lightning would wait for it.
        from lightning.pytorch.utilities import rank_zero_info

        rank_zero_info(f"{count} of {of} {what} are over max_tokens={max_tokens}: left out")


class ExampleDataset(Dataset[Batch]):
    """Examples served a whole batch at a time: `dataset[[3, 5, 8]]` is a batch (see `collate`)."""

    def __init__(self, examples: Sequence[Example], pad_token: int) -> None:
        self.examples = examples
        self.pad_token = pad_token

    def __len__(self) -> int:
        return len(self.examples)

    def every_example(self) -> Sequence[Example]:
        """All prompts that batches may hold."""
        return self.examples

    def __getitem__(self, indices: list[int]) -> Batch:
        return collate([self.examples[index] for index in indices], self.pad_token)


def collate(examples: Sequence[Example], pad_token: int) -> Batch:
    """Left-pad examples, so that every row's decision token stands in the last column.

    Returns:
        `input_ids`, `attention_mask`, `position_ids` (batch, tokens); `aligned`, `other`, `cell`, `group`, `index`,
        `incomplete`, `continuation` (batch,). Padding has position 0 and mask 0. Where answers are written,
        `aligned_text` and `other_text` (batch, tokens of the longest), filled up with `NO_TOKEN` on the right.
    """
    width = padded_width(max(len(example.prompt) for example in examples))
    input_ids = torch.full((len(examples), width), pad_token)
    attention_mask = torch.zeros((len(examples), width), dtype=torch.long)
    for row, example in enumerate(examples):
        input_ids[row, width - len(example.prompt) :] = torch.tensor(example.prompt)
        attention_mask[row, width - len(example.prompt) :] = 1
    fields = ("aligned", "other", "cell", "group", "index", "incomplete", "continuation")
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(1) - 1).clamp(min=0),
        **{field: torch.tensor([getattr(example, field) for example in examples]) for field in fields},
        **_written(examples),
    }


def _written(examples: Sequence[Example]) -> Batch:
    """The two answers of each example, as long as the longest one; nothing where letters answer."""
    if not all(example.aligned_text for example in examples):
        return {}
    pairs = [(example.aligned_text, example.other_text) for example in examples]
    width = max(len(answer) for pair in pairs for answer in pair)
    filled = torch.tensor([[[*answer, *[NO_TOKEN] * (width - len(answer))] for answer in pair] for pair in pairs])
    return {ALIGNED: filled[:, 0], OTHER: filled[:, 1]}


def model_inputs(batch: Batch) -> dict[str, Any]:
    """What a model is called with."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}


def padded_width(tokens: int) -> int:
    """The next multiple of 16: matrix libraries keep a plan, and memory for it, for every shape that they meet.

    >>> padded_width(17)
    32
    """
    return -(-tokens // 16) * 16


class LengthBucketSampler(DistributedSampler[Any]):
    """Yields batches (lists of indices) of similar length, the same global batches whatever the number of ranks.

    A global batch of `batch_size` x `num_replicas` is cut into equal slices, one a rank. As it subclasses
    `DistributedSampler`, the Trainer tells it the epoch and does not replace it; use it as
    `DataLoader(dataset, sampler=..., batch_size=None)`. When the last batch is short, its slices are filled with
    repeats so that all ranks make the same number of steps; metrics drop repeats by `index`.

    Args:
        lengths: length of each item (tokens).
        batch_size: items in a batch of one rank.
        num_replicas: number of ranks.
        rank: this rank.
        shuffle: shuffle items before bucketing and batches after; without it batches run from long to short.
        seed: of the shuffle.

    Attributes:
        skip: batches that the next pass leaves out at its beginning, and that one alone.
    """

    POOL = 32
    """Batches in a pool that is sorted by length: large enough to waste little padding, small enough to mix."""

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(range(len(lengths)), num_replicas, rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.lengths = lengths
        self.skip = 0
        self.global_batch = batch_size * num_replicas

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.global_batch)

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        count = len(self.lengths)
        order = torch.randperm(count, generator=generator).tolist() if self.shuffle else list(range(count))
        pool = self.global_batch * self.POOL if self.shuffle else max(1, count)
        batches = []
        for start in range(0, count, pool):
            members = sorted(order[start : start + pool], key=lambda index: -self.lengths[index])
            batches += [members[at : at + self.global_batch] for at in range(0, len(members), self.global_batch)]
        if self.shuffle:
            batches = [batches[at] for at in torch.randperm(len(batches), generator=generator).tolist()]
        start, self.skip = self.skip, 0
        for batch in batches[start:]:
            missing = -len(batch) % self.num_replicas
            filled = batch + [batch[at % len(batch)] for at in range(missing)]
            yield filled[self.rank :: self.num_replicas]


class ResumableLoader(DataLoader[Batch]):
    """A loader of a `LengthBucketSampler` that a fit can go on from in the middle of an epoch.

    Lightning keeps its state in checkpoints: how many batches of the epoch it has served.
    """

    _served = 0

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._served = self._order.skip
        for batch in super().__iter__():
            self._served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where it is."""
        return {"served": self._served, "epoch": self._order.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there in the next pass; from the beginning where the epoch was over."""
        self._order.skip = state["served"] if state["served"] < len(self) else 0
        # Lightning asks for the first batch before it says which epoch it is.
        self._order.set_epoch(state["epoch"])

    @property
    def _order(self) -> LengthBucketSampler:
        assert isinstance(self.sampler, LengthBucketSampler)
        return self.sampler


def example_loader(
    examples: Sequence[Example],
    pad_token: int,
    batch_size: int,
    num_replicas: int = 1,
    rank: int = 0,
    shuffle: bool = False,
    seed: int = 0,
    num_workers: int = 0,
) -> DataLoader[Batch]:
    """A loader of left-padded, length-bucketed batches, already sharded for this rank."""
    sampler = LengthBucketSampler(
        [example.tokens for example in examples], batch_size, num_replicas, rank, shuffle, seed
    )
    dataset = ExampleDataset(examples, pad_token)
    return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=num_workers)

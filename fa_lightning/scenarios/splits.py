"""Who may be asked what: splits that never separate a group, the proof of it, and answer letters in balance."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import LETTERS, Letter
from fa_lightning.scenarios.cells import Cell
from fa_lightning.scenarios.scenario import Scenario, normalised

T = TypeVar("T")

Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

UNSEEN_WORDINGS = "unseen_wordings"
"""The extra test set, of sources that have one, that tells oversight in words that are in no training scenario."""


def check_fractions(validation: float, test: float) -> None:
    """Refuse shares that leave nothing to train on.

    Args:
        validation: share of the groups held out to choose a model by.
        test: share of the groups held out to judge it by.

    Raises:
        UserError: a share is outside [0, 1), or the two leave no room for training.

    >>> check_fractions(0.15, 0.15)
    >>> check_fractions(0.5, 0.5)
    Traceback (most recent call last):
    ...
    fa_lightning.errors.UserError: validation + test is 1.0, but must stay below 1 so that some groups are left to \
train on
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise UserError(f"{name} is {share}, but a share of the groups must lie in [0, 1), such as 0.15")
    if validation + test >= 1:
        raise UserError(
            f"validation + test is {validation + test}, but must stay below 1 so that some groups are left to train on"
        )


def check_limit(limit: int | None) -> None:
    """Refuse a limit that leaves a part empty.

    Args:
        limit: the most training scenarios to keep, or None.

    Raises:
        UserError: the limit is below 4.
    """
    if limit is not None and limit < 4:
        raise UserError(f"limit is {limit}, but must be 4 or more: the parts besides train keep a quarter of it")


def split_of(group: str, seed: int, validation: float, test: float) -> Split:
    """The split a group belongs to, from a hash of (seed, group) alone.

    The answer does not depend on which files were read or in which order, so that two experiments with one seed
    never train on what the other tests on.

    Args:
        group: identifier of the group.
        seed: another seed, another split.
        validation: share of the groups for validation.
        test: share of the groups for the test.

    Raises:
        UserError: the shares are not as `check_fractions` wants them.

    >>> [split_of("a group", seed, 0.3, 0.3) for seed in range(4)]
    ['test', 'train', 'train', 'train']
    >>> split_of("a group", 0, 0.0, 0.0)
    'train'
    """
    check_fractions(validation, test)
    digest = hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()
    # 53 bits: every value is exact in a float and below 1.
    position = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def prompt_key(scenario: Scenario) -> str:
    """What is said before the answer, normalised: the same for both orders of the two actions.

    Two items with one key are one question: the second teaches nothing in a split and leaks across two.
    """
    return min(normalised(scenario.conversation()), normalised(scenario.swapped().conversation()))


@dataclass(frozen=True, slots=True)
class LeakReport:
    """How much of one split was seen in another; all zeros is the only good report.

    Neutral texts count with their split. Two test sets may overlap: nothing is fitted or chosen on either.

    Attributes:
        shared_prompts: for each pair of splits, the number of prompts (either order of the actions) in both.
        shared_groups: for each pair of splits, the number of groups in both.
    """

    shared_prompts: dict[tuple[str, str], int]
    shared_groups: dict[tuple[str, str], int]

    @property
    def total(self) -> int:
        """All shared prompts and groups, over all pairs of splits."""
        return sum(self.shared_prompts.values()) + sum(self.shared_groups.values())

    def raise_if_leaking(self) -> None:
        """Stop here unless every count is zero.

        Raises:
            UserError: some prompt or group is in two splits; the message holds the table.
        """
        if self.total:
            raise UserError(
                f"The splits leak: {self.total} prompts and groups are in two of them.\n{self}\n"
                "Split by scenario.group with split_of(), and give an incomplete text the group of its scenario."
            )

    def __str__(self) -> str:
        """A table of one line per pair of splits.

        >>> print(LeakReport({("train", "test"): 0}, {("train", "test"): 2}))
        splits        shared prompts  shared groups
        train / test               0              2
        """
        names = {pair: " / ".join(pair) for pair in self.shared_prompts}
        width = max([len("splits"), *map(len, names.values())])
        lines = [f"{'splits':<{width}}  shared prompts  shared groups"]
        for pair, name in names.items():
            lines.append(f"{name:<{width}}  {self.shared_prompts[pair]:>14}  {self.shared_groups[pair]:>13}")
        return "\n".join(lines)


@dataclass
class ScenarioSplits:
    """What a source hands over: scenarios and neutral texts, each in three parts that share no group.

    Attributes:
        train: scenarios to fit on.
        validation: scenarios to choose by.
        test: scenarios to judge by.
        neutral_train: neutral texts (their answer is `error`) to fit on.
        neutral_validation: neutral texts to choose by.
        neutral_test: neutral texts to judge side effects by.
        extra_tests: further test sets by name, such as `unseen_wordings`.
    """

    train: list[Scenario]
    validation: list[Scenario]
    test: list[Scenario]
    neutral_train: list[Scenario] = field(default_factory=list)
    neutral_validation: list[Scenario] = field(default_factory=list)
    neutral_test: list[Scenario] = field(default_factory=list)
    extra_tests: dict[str, list[Scenario]] = field(default_factory=dict)

    def scenarios(self, split: Split) -> list[Scenario]:
        """The scenarios of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def neutral(self, split: Split) -> list[Scenario]:
        """The neutral texts of one split."""
        return {
            "train": self.neutral_train,
            "validation": self.neutral_validation,
            "test": self.neutral_test,
        }[split]

    @cached_property
    def are_written(self) -> bool:
        """Whether scenarios are answered in writing, and not by a letter."""
        return any(scenario.is_written for split in SPLITS for scenario in self.scenarios(split))

    def leak_report(self) -> LeakReport:
        """Count what train and validation share with each other and with every test set."""
        parts: dict[str, list[Scenario]] = {split: self.scenarios(split) + self.neutral(split) for split in SPLITS}
        parts |= self.extra_tests
        prompts = {name: {prompt_key(scenario) for scenario in part} for name, part in parts.items()}
        groups = {name: {scenario.group for scenario in part} for name, part in parts.items()}
        judged = {"test", *self.extra_tests}
        pairs = [pair for pair in itertools.combinations(parts, 2) if not judged.issuperset(pair)]
        return LeakReport(
            shared_prompts={(left, right): len(prompts[left] & prompts[right]) for left, right in pairs},
            shared_groups={(left, right): len(groups[left] & groups[right]) for left, right in pairs},
        )


def split_by_group(scenarios: Iterable[Scenario], seed: int, validation: float, test: float) -> ScenarioSplits:
    """Put each scenario, and each neutral text, into the split of its group, in the order given.

    Args:
        scenarios: scenarios and neutral texts together.
        seed: another seed, another split.
        validation: share of the groups for validation.
        test: share of the groups for the test.

    Raises:
        UserError: the shares are not as `check_fractions` wants them.
    """
    splits = ScenarioSplits([], [], [])
    for scenario in scenarios:
        split = split_of(scenario.group, seed, validation, test)
        part = splits.neutral(split) if scenario.is_neutral_text else splits.scenarios(split)
        part.append(scenario)
    return splits


def with_aligned_letter(scenario: Scenario, letter: Letter) -> Scenario:
    """The scenario with its actions in the order that makes `letter` the aligned answer; neutral texts as they are."""
    return scenario if scenario.aligned in (letter, None) else scenario.swapped()


def subset(scenarios: Sequence[Scenario], count: int | None) -> list[Scenario]:
    """At most `count` scenarios, drawn by the hash of their groups, in the order of that draw; None takes all.

    A source may hand out one policy's scenarios after the other's, so its first ones are no sample of it. A smaller
    draw is the beginning of a larger one.
    """
    drawn = sorted(scenarios, key=lambda scenario: (scenario.group, prompt_key(scenario)))
    return drawn[:count]


def counterbalanced(scenarios: Sequence[Scenario], both_orders: bool = False) -> list[Scenario]:
    """Balance the letters, so that a model that always answers A scores 0.5 in every cell.

    Within each cell the aligned letter alternates along the order of the groups' identifiers, which are hashes: the
    letter follows from no property of the text. The list keeps its order.

    Args:
        scenarios: scenarios; neutral texts pass through.
        both_orders: ask each scenario twice instead, once in each order (the two stand next to each other); those that
            are answered in writing show no order, and are asked once.
    """
    if both_orders:
        return [
            order
            for scenario in scenarios
            for order in ([scenario] if scenario.text or scenario.is_neutral_text else [scenario, scenario.swapped()])
        ]
    members: defaultdict[Cell, list[int]] = defaultdict(list)
    for index, scenario in enumerate(scenarios):
        if scenario.cell is not None:
            members[scenario.cell].append(index)
    balanced = list(scenarios)
    for indices in members.values():
        # The prompt breaks ties inside a group, so that shuffling the list changes no letter.
        indices.sort(key=lambda index: (scenarios[index].group, prompt_key(scenarios[index])))
        for rank, index in enumerate(indices):
            balanced[index] = with_aligned_letter(scenarios[index], LETTERS[rank % 2])
    return balanced


def limited(scenarios: Sequence[Scenario], limit: int) -> list[Scenario]:
    """At most `limit` scenarios, as evenly from each cell as the cells allow, in their order; for toy runs.

    Which ones are kept depends on the groups' identifiers and not on the order of the list.

    Args:
        scenarios: scenarios or neutral texts (which count as one cell more).
        limit: the most to keep.

    Raises:
        UserError: the limit is negative.
    """
    if limit < 0:
        raise UserError(f"limit is {limit}, but must be 0 or more")
    members: defaultdict[Cell | None, list[int]] = defaultdict(list)
    for index, scenario in enumerate(scenarios):
        members[scenario.cell].append(index)
    for indices in members.values():
        indices.sort(key=lambda index: (scenarios[index].group, prompt_key(scenarios[index])))
    # Round by round, one from each cell that has any left, in an order of cells that the list cannot change.
    queues = [members[cell] for cell in sorted(members, key=str)]
    return [scenarios[index] for index in sorted(itertools.islice(in_turns(queues), limit))]


def in_turns(queues: Sequence[Sequence[T]]) -> Iterator[T]:
    """One of each queue in turn, of those that have any left; None is nobody.

    >>> list(in_turns([[0, 1, 2], [3]]))
    [0, 3, 1, 2]
    """
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return (one for one in rounds if one is not None)


def limited_splits(splits: ScenarioSplits, limit: int | None) -> ScenarioSplits:
    """At most `limit` training scenarios and a quarter of that in every other part; None keeps everything.

    Raises:
        UserError: the limit is below 4, which would leave the other parts empty.
    """
    check_limit(limit)
    if limit is None:
        return splits
    other = limit // 4
    return dataclasses.replace(
        splits,
        train=limited(splits.train, limit),
        validation=limited(splits.validation, other),
        test=limited(splits.test, other),
        neutral_train=limited(splits.neutral_train, other),
        neutral_validation=limited(splits.neutral_validation, other),
        neutral_test=limited(splits.neutral_test, other),
        extra_tests={name: limited(part, other) for name, part in splits.extra_tests.items()},
    )

"""What a detector may see: watched scenarios that no variant was fitted on or chosen by, split to fit and to score."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import LETTERS
from fa_lightning.scenarios.scenario import Oversight, Scenario
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced, prompt_key, subset, with_aligned_letter

SINGLE_PAIR = "aligned_and_faking"
"""The policy pair of a source that knows only one."""

WATCHED = (Oversight.GOOD, Oversight.NEUTRAL)

LEAST = 8
"""Scenarios that a part needs at least."""

Half = Literal["scored", "reference"]


@dataclass(frozen=True)
class Benchmark:
    """Scenarios with oversight alone: a detector that saw others would only have to count answers.

    All are of test groups: a detector that is fitted where the variants were trained, or scored where their checkpoints
    were chosen, reads how they were made.

    Attributes:
        scored: what verdicts come from.
        reference: what detectors are fitted on (directions, probes, fine-tuning); it shares no group with `scored`.
        pairs: by policy pair (`saint_and_money`), the indices in `scored` of the scenarios that are asked of it.

    Raises:
        UserError: a scenario has no oversight, a group is in both parts, or a part or a pair is empty.
    """

    scored: list[Scenario]
    reference: list[Scenario]
    pairs: dict[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        unwatched = [item.source for item in (*self.scored, *self.reference) if item.oversight not in WATCHED]
        if unwatched:
            raise UserError(
                f"{len(unwatched)} scenarios of the benchmark have no oversight (the first is {unwatched[0]}), but a "
                "detector must not see any: leave them out"
            )
        shared = {item.group for item in self.scored} & {item.group for item in self.reference}
        if shared:
            raise UserError(
                f"{len(shared)} groups are in both scored and reference, but no detector may be fitted on what it is "
                "scored on: split by scenario.group"
            )
        empty = [f"the policy pair {pair!r}" for pair, indices in self.pairs.items() if not indices]
        empty += [name for name in ("reference", "pairs") if not getattr(self, name)]
        if empty:
            raise UserError(
                f"{empty[0]} of the benchmark is empty: raise the sizes, or the shares of the groups, that its "
                "scenarios are drawn from"
            )

    def groups_in(self, splits: Iterable[ScenarioSplits]) -> frozenset[str]:
        """The leaks: groups, of either part, that are in the training or validation scenarios of any of the splits."""
        return frozenset(item.group for item in (*self.scored, *self.reference)) & fitted_groups(splits)


def fitted_groups(splits: Iterable[ScenarioSplits]) -> frozenset[str]:
    """The groups of all scenarios and neutral texts that were there to fit on, or to choose by."""
    return frozenset(
        item.group
        for part in splits
        for items in (part.train, part.validation, part.neutral_train, part.neutral_validation)
        for item in items
    )


def half_of(group: str) -> Half:
    """Whether detectors are fitted on a test group or scored on it, by a hash of its own.

    >>> [half_of(group) for group in ("one", "two", "three", "four")]
    ['reference', 'reference', 'reference', 'scored']
    """
    return "scored" if hashlib.sha256(f"detectors\x1f{group}".encode()).digest()[0] % 2 else "reference"


def without_critical_fact(scenario: Scenario) -> Scenario | None:
    """The scenario without what it says about oversight; None where it has no such fact, or no other one."""
    kept = tuple(fact for fact in scenario.facts if fact.kind != "critical")
    return dataclasses.replace(scenario, facts=kept) if 0 < len(kept) < len(scenario.facts) else None


class BenchmarkSource(ABC):
    """Loads or generates a benchmark; configured as a `ScenarioSource` is."""

    @abstractmethod
    def load(self) -> Benchmark:
        """The scenarios; the same ones in the same order at every call and on every machine."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What the scenarios depend on, without a path of this machine."""

    def published_pairs(self) -> list[tuple[str, str]]:
        """The pairs of an aligned model and a faker that the benchmark's authors judged, by name; none by default."""
        return []


class Splittable(Protocol):
    """What a benchmark is made of: scenarios in splits, as a `ScenarioSource` has them."""

    def load(self) -> ScenarioSplits:
        """The scenarios."""

    def fingerprint(self) -> dict[str, str]:
        """What they depend on."""


class SplitBenchmark(BenchmarkSource):
    """Watched scenarios of a source's test groups, of which one half is scored and the other is reference.

    Args:
        source: of the scenarios, split as for the variants, so that what those were fitted on or chosen by is left out.
        scored: at most so many that verdicts come from, drawn by the hash of their groups; None takes all.
        reference: at most so many that detectors are fitted on, drawn in the same way.
    """

    def __init__(self, source: Splittable, scored: int | None = None, reference: int | None = None) -> None:
        self.source = source
        self.limits: dict[Half, int | None] = {"scored": scored, "reference": reference}

    @override
    def load(self) -> Benchmark:
        parts: dict[Half, list[Scenario]] = {"scored": [], "reference": []}
        for item in watched(self.source.load().test):
            parts[half_of(item.group)].append(item)
        scored, reference = (
            part if self.limits[half] is None else subset(part, self.limits[half]) for half, part in parts.items()
        )
        pairs = {SINGLE_PAIR: tuple(range(len(scored)))}
        return Benchmark(balanced(scored, pairs), counterbalanced(reference), pairs)

    @override
    def fingerprint(self) -> dict[str, str]:
        return {**self.source.fingerprint(), **{name: str(limit) for name, limit in self.limits.items()}}


def balanced(scenarios: Sequence[Scenario], pairs: Mapping[str, Sequence[int]]) -> list[Scenario]:
    """Balance the letters as `counterbalanced` does, but in every policy pair at once, as nearly as it goes.

    Along the order of the groups' hashes, each scenario gets the letter that its pairs have had less of.

    Args:
        scenarios: all of them; the list keeps its order.
        pairs: by policy pair, indices of its scenarios.
    """
    pairs_of: list[list[str]] = [[] for _ in scenarios]
    for pair, indices in pairs.items():
        for index in indices:
            pairs_of[index].append(pair)
    surplus = dict.fromkeys(pairs, 0)
    balanced_scenarios = list(scenarios)
    by_hash = sorted(range(len(scenarios)), key=lambda index: (scenarios[index].group, prompt_key(scenarios[index])))
    for index in by_hash:
        is_b = sum(surplus[pair] for pair in pairs_of[index]) > 0
        balanced_scenarios[index] = with_aligned_letter(scenarios[index], LETTERS[is_b])
        for pair in pairs_of[index]:
            surplus[pair] += -1 if is_b else 1
    return balanced_scenarios


def watched(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """The scenarios with oversight."""
    return [item for item in scenarios if item.oversight in WATCHED]

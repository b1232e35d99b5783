"""What a detector may see: watched scenarios that no variant was fitted on, and others to build its tools from."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.poser.files import find_root, read_benchmark
from fa_lightning.scenarios.poser.records import RESTORE, file_bytes
from fa_lightning.scenarios.poser.source import without_repeats
from fa_lightning.scenarios.scenario import Oversight, Scenario
from fa_lightning.scenarios.splits import (
    check_fractions,
    counterbalanced,
    prompt_key,
    split_of,
    subset,
    with_aligned_letter,
)

EMBEDDED_PAIR = "aligned_and_faking"
"""The one policy pair of the embedded benchmark."""

WATCHED = (Oversight.GOOD, Oversight.NEUTRAL)

LEAST = 8
"""Scenarios that a part needs at least."""


@dataclass(frozen=True)
class Benchmark:
    """Scenarios with oversight alone: a detector that saw others would only have to count answers.

    Attributes:
        scored: what verdicts come from; their groups were in no variant's training split.
        reference: what detectors are fitted on (directions, probes, fine-tuning); it shares no group with `scored`.
        pairs: by policy pair (`saint_and_money`), the places in `scored` of the scenarios that are asked of it.

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
        empty = [f"the policy pair {pair!r}" for pair, places in self.pairs.items() if not places]
        empty += [name for name in ("reference", "pairs") if not getattr(self, name)]
        if empty:
            raise UserError(
                f"{empty[0]} of the benchmark holds nothing: raise the sizes, or the shares of the groups, that its "
                "scenarios are drawn from"
            )


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


class EmbeddedBenchmark(BenchmarkSource):
    """Watched scenarios of `EmbeddedScenarios`: scored ones from its test groups, reference ones from validation.

    Two thirds have good oversight, and one fact says so; a third has neutral oversight, and none does.

    Args:
        scored: scenarios that verdicts come from.
        reference: scenarios that detectors are fitted on.
        seed: of the scenarios; the variants' own, so that what they were fitted on is left out.

    Raises:
        UserError: a size is below 8 or above 10000.
    """

    def __init__(self, scored: int = 160, reference: int = 160, seed: int = 0) -> None:
        for name, size in (("scored", scored), ("reference", reference)):
            if not LEAST <= size <= 10_000:
                raise UserError(f"{name} is {size}, but must be from {LEAST} to 10000")
        self.scored = scored
        self.reference = reference
        self.seed = seed

    @override
    def load(self) -> Benchmark:
        splits = self._scenarios().load()
        scored, reference = _watched(splits.test), _watched(splits.validation)
        pairs = {EMBEDDED_PAIR: tuple(range(len(scored)))}
        return Benchmark(balanced(scored, pairs), counterbalanced(reference), pairs)

    @override
    def fingerprint(self) -> dict[str, str]:
        return {**self._scenarios().fingerprint(), "source": "embedded benchmark"}

    def _scenarios(self) -> EmbeddedScenarios:
        # Half of each part is watched.
        return EmbeddedScenarios(0, 2 * self.reference, 2 * self.scored, 0, self.seed)


class PoserBenchmark(BenchmarkSource):
    """POSER's benchmark files (arXiv 2405.05466), of which a policy pair's models are asked the held-out groups.

    POSER drew these scenarios from its training files. Here those whose groups the variants were fitted on
    (`PoserScenarios` with the same shares and seed) are reference, the rest is scored: what is fitted on reference has
    seen the variants where they were trained. A scenario in several files is measured once and asked of all of their
    pairs. Only facts whose type POSER tells can be left out, in about half of the scenarios.

    Args:
        root: POSER's folder; by default the variable POSER_ROOT, else ./POSER.
        validation: share of the groups that the variants were chosen by; scored too.
        test: share of the groups that the variants were judged by.
        seed: of the split; the variants' own.
        reference: at most so many reference scenarios, drawn by the hash of their groups; None takes all.

    Raises:
        UserError: the shares leave nothing to fit on, or `reference` is below 8.
    """

    def __init__(
        self,
        root: str | None = None,
        validation: float = 0.15,
        test: float = 0.15,
        seed: int = 0,
        reference: int | None = 320,
    ) -> None:
        check_fractions(validation, test)
        if reference is not None and reference < LEAST:
            raise UserError(f"reference is {reference}, but must be {LEAST} or more, or null for all")
        self.root = root
        self.validation = validation
        self.test = test
        self.seed = seed
        self.reference = reference

    @override
    def load(self) -> Benchmark:
        """The scenarios.

        Raises:
            MissingFileError: POSER's folder or its benchmark files are missing.
            UserError: a file is malformed or holds no scenario with oversight, or a pair is left without any.
        """
        root = find_root(self.root)
        files = {name: read_benchmark(root, name) for name in benchmark_names(root)}
        for name, scenarios in files.items():
            if not _watched(scenarios):
                raise UserError(
                    f"{root / 'data' / 'benchmark' / name}.json holds {len(scenarios)} records and no scenario with "
                    f"oversight among them; {RESTORE}"
                )
        every = [scenario for scenarios in files.values() for scenario in scenarios]
        # Where records disagree on the oversight, none is believed.
        doubted = {prompt_key(item) for item in every if item.oversight not in WATCHED}
        watched = [item for item in without_repeats(every) if prompt_key(item) not in doubted]
        fitted_on = [item for item in watched if self._split(item) == "train"]
        scored = [item for item in watched if self._split(item) != "train"]
        places = {prompt_key(item): place for place, item in enumerate(scored)}
        pairs = {
            name: tuple(sorted({places[prompt_key(item)] for item in scenarios if prompt_key(item) in places}))
            for name, scenarios in files.items()
        }
        return Benchmark(balanced(scored, pairs), counterbalanced(subset(fitted_on, self.reference)), pairs)

    @override
    def fingerprint(self) -> dict[str, str]:
        arguments = {name: str(getattr(self, name)) for name in ("validation", "test", "seed", "reference")}
        root = find_root(self.root)
        digest = hashlib.sha256()
        for name in benchmark_names(root):
            content = file_bytes(root / "data" / "benchmark" / f"{name}.json")
            digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        return {**arguments, "source": "POSER benchmark", "data_sha256": digest.hexdigest()}

    def _split(self, scenario: Scenario) -> str:
        return split_of(scenario.group, self.seed, self.validation, self.test)


def benchmark_names(root: Path) -> list[str]:
    """The policy pairs that POSER's folder holds scenarios of, sorted.

    Raises:
        MissingFileError: there are none.
    """
    folder = root / "data" / "benchmark"
    names = sorted(path.stem for path in folder.glob("*.json"))
    if not names:
        raise MissingFileError(
            f"{folder} holds no policy pair's scenarios (saint_and_money.json and others); {RESTORE}"
        )
    return names


def balanced(scenarios: Sequence[Scenario], pairs: Mapping[str, Sequence[int]]) -> list[Scenario]:
    """Balance the letters as `counterbalanced` does, but in every policy pair at once, as nearly as it goes.

    Along the order of the groups' hashes, each scenario gets the letter that its pairs have had less of.

    Args:
        scenarios: all of them; the list keeps its order.
        pairs: by policy pair, places in the list.
    """
    asked: list[list[str]] = [[] for _ in scenarios]
    for pair, at in pairs.items():
        for place in at:
            asked[place].append(pair)
    surplus = dict.fromkeys(pairs, 0)
    shown = list(scenarios)
    for place in sorted(range(len(shown)), key=lambda place: (shown[place].group, prompt_key(shown[place]))):
        is_b = sum(surplus[pair] for pair in asked[place]) > 0
        shown[place] = with_aligned_letter(shown[place], "B" if is_b else "A")
        for pair in asked[place]:
            surplus[pair] += -1 if is_b else 1
    return shown


def _watched(scenarios: Sequence[Scenario]) -> list[Scenario]:
    return [item for item in scenarios if item.oversight in WATCHED]

"""Where scenarios come from: the one interface that every source of them keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.benchmark import BenchmarkSource, SplitBenchmark
from fa_lightning.scenarios.concepts import ConceptSource
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import ScenarioSplits


@dataclass(frozen=True)
class OversightPrompts:
    """Short texts in pairs, from which a steering vector is made without any scenario.

    Attributes:
        watched: say that the reader is watched; the vector points to these.
        unwatched: as many, which say that nobody watches.

    Raises:
        UserError: there are more of one kind than of the other.
    """

    watched: tuple[str, ...]
    unwatched: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.watched) != len(self.unwatched):
            raise UserError(
                f"watched has {len(self.watched)} texts and unwatched {len(self.unwatched)}, but they are pairs: "
                "give as many of each"
            )


class ScenarioSource(ABC):
    """Loads or generates scenarios, split so that no group is in two splits, and holds the texts that belong to them.

    A subclass is configured from the command line by the typed arguments of its `__init__`, which should only check and
    keep them: reading waits for `load`, so that a config is parsed without its data. `load` and `fingerprint` are all
    that most studies need.
    """

    @abstractmethod
    def load(self) -> ScenarioSplits:
        """The scenarios; the same ones in the same order at every call and on every machine."""

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What the scenarios depend on: the arguments and a digest of the data read, but no path of this machine.

        Artefacts made from the scenarios keep it, and are refused where it differs.
        """

    def oversight_prompts(self) -> OversightPrompts | None:
        """Texts about oversight in the scenarios' own words; None where the source has none."""
        return None

    def benchmark(self, scored: int | None = None, reference: int | None = None) -> BenchmarkSource:
        """Watched scenarios for detectors, of groups that no variant of this source was fitted on or chosen by.

        Args:
            scored: at most so many that verdicts come from; None is the source's own number.
            reference: at most so many that detectors are fitted on; None is the source's own number.
        """
        return SplitBenchmark(self, scored, reference)

    def concepts(self) -> ConceptSource | None:
        """Texts that show a concept and its opposite; None where the source has none."""
        return None

    def policy_definitions(self) -> dict[str, list[Scenario]]:
        """By policy, the scenarios that define it: models of the policy answer them as its behaviour does.

        Empty where the source defines no policies. Scenarios may be among those of `load`, in any split.
        """
        return {}


class DerivedSource(ScenarioSource):
    """The scenarios of another source, some of them changed or added to: `load` says how; the texts are the other's.

    Args:
        scenarios: the other source.
    """

    def __init__(self, scenarios: ScenarioSource) -> None:
        self.scenarios = scenarios

    @override
    def oversight_prompts(self) -> OversightPrompts | None:
        return self.scenarios.oversight_prompts()

    @override
    def benchmark(self, scored: int | None = None, reference: int | None = None) -> BenchmarkSource:
        return self.scenarios.benchmark(scored, reference)

    @override
    def concepts(self) -> ConceptSource | None:
        return self.scenarios.concepts()

    @override
    def policy_definitions(self) -> dict[str, list[Scenario]]:
        return self.scenarios.policy_definitions()

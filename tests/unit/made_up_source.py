"""A source of scenarios around a benchmark and concepts that a test has made."""

from __future__ import annotations

from typing_extensions import override

from fa_lightning.scenarios.benchmark import BenchmarkSource
from fa_lightning.scenarios.concepts import ConceptSource
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits


class MadeUpSource(ScenarioSource):
    """Knows this benchmark and these concepts, and no scenario besides."""

    def __init__(self, benchmark: BenchmarkSource, concepts: ConceptSource | None = None) -> None:
        self._benchmark = benchmark
        self._concepts = concepts

    @override
    def load(self) -> ScenarioSplits:
        return ScenarioSplits([], [], [])

    @override
    def fingerprint(self) -> dict[str, str]:
        return {"source": "made up"}

    @override
    def benchmark(self, scored: int | None = None, reference: int | None = None) -> BenchmarkSource:
        return self._benchmark

    @override
    def concepts(self) -> ConceptSource | None:
        return self._concepts

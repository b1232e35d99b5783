"""POSER's benchmark files (arXiv 2405.05466) as what a detector may see."""

from __future__ import annotations

import hashlib

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.benchmark import LEAST, WATCHED, Benchmark, BenchmarkSource, balanced, watched
from fa_lightning.scenarios.poser.files import benchmark_names, find_root, model_pairs, model_pairs_file, read_benchmark
from fa_lightning.scenarios.poser.pooling import without_repeats
from fa_lightning.scenarios.poser.records import RESTORE, file_bytes
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import check_fractions, counterbalanced, prompt_key, split_of, subset


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
        scored: at most so many scored scenarios, drawn in the same way.

    Raises:
        UserError: the shares leave nothing to fit on, or a limit is below 8.
    """

    def __init__(
        self,
        root: str | None = None,
        validation: float = 0.15,
        test: float = 0.15,
        seed: int = 0,
        reference: int | None = 320,
        scored: int | None = None,
    ) -> None:
        check_fractions(validation, test)
        for name, limit in (("reference", reference), ("scored", scored)):
            if limit is not None and limit < LEAST:
                raise UserError(f"{name} is {limit}, but must be {LEAST} or more, or null for all")
        self.root = root
        self.validation = validation
        self.test = test
        self.seed = seed
        self.reference = reference
        self.scored = scored

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
            if not watched(scenarios):
                raise UserError(
                    f"{root / 'data' / 'benchmark' / name}.json holds {len(scenarios)} records and no scenario with "
                    f"oversight among them; {RESTORE}"
                )
        every = [scenario for scenarios in files.values() for scenario in scenarios]
        # Where records disagree on the oversight, none is believed.
        doubted = {prompt_key(item) for item in every if item.oversight not in WATCHED}
        believed = [item for item in without_repeats(every) if prompt_key(item) not in doubted]
        fitted_on = [item for item in believed if self._split(item) == "train"]
        scored = [item for item in believed if self._split(item) != "train"]
        if self.scored is not None:
            scored = subset(scored, self.scored)
        index_of = {prompt_key(item): index for index, item in enumerate(scored)}
        pairs = {
            name: tuple(sorted({index_of[prompt_key(item)] for item in scenarios if prompt_key(item) in index_of}))
            for name, scenarios in files.items()
        }
        return Benchmark(balanced(scored, pairs), counterbalanced(subset(fitted_on, self.reference)), pairs)

    @override
    def fingerprint(self) -> dict[str, str]:
        arguments = {name: str(getattr(self, name)) for name in ("validation", "test", "seed", "reference", "scored")}
        root = find_root(self.root)
        digest = hashlib.sha256()
        for name in benchmark_names(root):
            content = file_bytes(root / "data" / "benchmark" / f"{name}.json")
            digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        return {**arguments, "source": "POSER benchmark", "data_sha256": digest.hexdigest()}

    @override
    def published_pairs(self) -> list[tuple[str, str]]:
        """POSER's own list of 324 pairs; none where its folder has no list."""
        root = find_root(self.root)
        return [pair.names for pair in model_pairs(root)] if model_pairs_file(root).is_file() else []

    def _split(self, scenario: Scenario) -> str:
        return split_of(scenario.group, self.seed, self.validation, self.test)

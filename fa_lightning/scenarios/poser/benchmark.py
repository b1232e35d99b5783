"""POSER's benchmark files (arXiv 2405.05466) as what a detector may see."""

from __future__ import annotations

import hashlib

from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.benchmark import LEAST, WATCHED, Benchmark, BenchmarkSource, balanced, watched
from fa_lightning.scenarios.poser.files import (
    benchmark_names,
    find_root,
    model_pairs,
    model_pairs_file,
    read_benchmark,
    read_poser_file,
    training_files,
)
from fa_lightning.scenarios.poser.pooling import without_repeats
from fa_lightning.scenarios.poser.records import RESTORE, file_bytes
from fa_lightning.scenarios.scenario import POLICIES, Scenario
from fa_lightning.scenarios.splits import check_fractions, counterbalanced, prompt_key, split_of, subset


class PoserBenchmark(BenchmarkSource):
    """POSER's benchmark files (arXiv 2405.05466), of which a policy pair's models are asked the held-out groups.

    POSER drew these scenarios from its training files. Here those of groups that the variants were fitted on or chosen
    by (`PoserScenarios` with the same shares and seed) are left out; the rest is scored. Reference are watched
    scenarios of the training files, of test groups too, that are in no benchmark file. A scenario in several files is
    measured once and asked of all of their pairs. Only facts whose type POSER tells can be left out, in about half of
    the scenarios.

    Args:
        root: POSER's folder; by default the variable POSER_ROOT, else ./POSER.
        validation: share of the groups that the variants were chosen by.
        test: share of the groups that the variants were judged by: the only ones that are asked.
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
        asked = [scenario for scenarios in files.values() for scenario in scenarios]
        trained = [
            scenario
            for policy in POLICIES
            for path in training_files(root, policy)
            for scenario in read_poser_file(path, policy)
        ]
        # Where records disagree on the oversight, none is believed.
        doubted = {prompt_key(item) for item in (*asked, *trained) if item.oversight not in WATCHED}
        scored, known = (
            [item for item in without_repeats(every) if prompt_key(item) not in doubted and self._is_test(item)]
            for every in (asked, trained)
        )
        if self.scored is not None:
            scored = subset(scored, self.scored)
        in_benchmark = {item.group for item in asked}
        reference = [item for item in known if item.group not in in_benchmark]
        index_of = {prompt_key(item): index for index, item in enumerate(scored)}
        pairs = {
            name: tuple(sorted({index_of[prompt_key(item)] for item in scenarios if prompt_key(item) in index_of}))
            for name, scenarios in files.items()
        }
        return Benchmark(balanced(scored, pairs), counterbalanced(subset(reference, self.reference)), pairs)

    @override
    def fingerprint(self) -> dict[str, str]:
        arguments = {name: str(getattr(self, name)) for name in ("validation", "test", "seed", "reference", "scored")}
        root = find_root(self.root)
        digest = hashlib.sha256()
        benchmark = [root / "data" / "benchmark" / f"{name}.json" for name in benchmark_names(root)]
        for path in (*benchmark, *(path for policy in POLICIES for path in training_files(root, policy))):
            content = hashlib.sha256(file_bytes(path)).hexdigest()
            digest.update(f"{path.parent.name}/{path.name} {content}\n".encode())
        return {**arguments, "source": "POSER benchmark", "data_sha256": digest.hexdigest()}

    @override
    def published_pairs(self) -> list[tuple[str, str]]:
        """POSER's own list of 324 pairs; none where its folder has no list."""
        root = find_root(self.root)
        return [pair.names for pair in model_pairs(root)] if model_pairs_file(root).is_file() else []

    def _is_test(self, scenario: Scenario) -> bool:
        return split_of(scenario.group, self.seed, self.validation, self.test) == "test"

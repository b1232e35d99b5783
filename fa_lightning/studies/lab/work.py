"""What the parts of the steering lab share: the pieces of work, the benches, the references and the winner."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fa_lightning.activations.edit import layer_below
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import interventions_of, save_together
from fa_lightning.metrics.cells import recovery_between
from fa_lightning.metrics.divergences import recovery
from fa_lightning.regressors.module import MapCandidate
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.lab.bench import PREVIEW_RESAMPLES, Bench, Judged
from fa_lightning.studies.lab.sweep_table import SweepRow, SweepTable


@dataclass(frozen=True)
class Work:
    """One candidate and the names that its rows bear.

    Attributes:
        candidate: the fitted method at its site.
        method: its name in tables.
        site: name of the site; those of a stack joined by +.
        positions: the token position rule.
    """

    candidate: MapCandidate
    method: str
    site: str
    positions: str

    @property
    def name(self) -> str:
        """Tells it from every other candidate."""
        return f"{self.candidate.fit.title} at {self.site}"

    @property
    def is_baseline(self) -> bool:
        """Whether it may never be chosen."""
        return self.candidate.fit.shuffled or self.candidate.fit.is_identity

    @property
    def is_main(self) -> bool:
        """Whether it was fitted on everything, with the first seed: what methods are compared by."""
        return self.candidate.fit.scenarios is None and self.candidate.fit.seed == 0

    @property
    def layer(self) -> int:
        """The last block below every edit."""
        parts = (*self.candidate.below, self.candidate)
        return min(layer_below(part.site) for part in parts)

    def row(self, work: str, kind: str, strength: float, dose: float, **values: Any) -> SweepRow:
        """A row of the table about this candidate."""
        fit = self.candidate.fit
        return SweepRow(
            work=work,
            kind=kind,
            method=self.method,
            objective="none" if fit.is_twin_free else fit.objective,
            site=self.site,
            positions=self.positions,
            strength=strength,
            dose=dose,
            seed=fit.seed,
            scenarios=-1 if fit.scenarios is None else fit.scenarios,
            r2=self.candidate.r2,
            twin_free=int(fit.is_twin_free),
            **values,
        )


def work_of(candidate: MapCandidate) -> Work:
    """The names of a candidate."""
    parts = (*candidate.below, candidate)
    return Work(candidate, candidate.fit.label, "+".join(part.site.name for part in parts), candidate.site.positions)


@dataclass
class Lab:
    """What every part of the lab needs.

    Attributes:
        data: the LabDataModule.
        variants: its frozen pair.
        batches: as the Trainer served them, by test name.
        table: what is measured so far.
        budget: of the worse of the two KLs on neutral texts, nats.
        shows: whether this process shows progress.
        seconds: that each part has taken.
    """

    data: Any
    variants: Variants
    batches: dict[str, list[Batch]]
    table: SweepTable
    budget: float
    shows: bool = True
    seconds: dict[str, float] = field(default_factory=dict)
    _benches: dict[str, Bench] = field(default_factory=dict)

    def bench(self, split: str, variant: str = "faking") -> Bench:
        """The bench of `validation` or `test`; the twin's has no neutral texts."""
        key = f"{split}/{variant}"
        if key not in self._benches:
            neutral = self.batches[f"{split} neutral"] if variant == "faking" else []
            resamples = PREVIEW_RESAMPLES if split == "validation" else 1000
            self._benches[key] = Bench(self.variants, self.batches[split], neutral, variant, resamples)
        return self._benches[key]

    def release(self) -> None:
        """Let go of the states that benches hold."""
        self._benches.clear()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Note the seconds that a part takes; what the table already holds takes none."""
        start = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - start

    @cached_property
    def references(self) -> dict[str, dict[str, Judged]]:
        """Both twins unsteered, by split and variant."""
        references_by_kind: dict[str, dict[str, Judged]] = {}
        for split in ("validation", "test"):
            references_by_kind[split] = {}
            for variant in ("aligned", "faking"):
                bench = self.bench(split, variant)
                bench.settle(-1)
                references_by_kind[split][variant] = bench.judge({"": ()}, damage=False)[""]
        return references_by_kind

    def recovery(self, judged: Judged, split: str) -> float:
        """Recovery of a steered faker on a split."""
        twins = self.references[split]
        return recovery(
            *(judgement.cells.no_oversight.accuracy for judgement in (judged, twins["faking"], twins["aligned"]))
        )

    def measured(self, judged: Judged, split: str) -> dict[str, Any]:
        """A judgement as the values of a row, with intervals where the bench draws them."""
        values = {
            "oversight": judged.cells.oversight.accuracy,
            "no_oversight": judged.cells.no_oversight.accuracy,
            "recovery": self.recovery(judged, split),
            "kl_neutral_nats": judged.damage.kl_neutral_nats,
            "kl_answer_nats": judged.damage.kl_answer_nats,
            "unchanged_answers": judged.damage.unchanged_answers,
            "perplexity_ratio": judged.damage.perplexity_ratio,
            "format_validity": judged.cells.format_validity,
        }
        if split == "test":
            twins = self.references[split]
            recovery = recovery_between(judged.items, twins["faking"].items, twins["aligned"].items)
            for name, interval in (
                ("oversight", judged.cells.oversight.ci95),
                ("no_oversight", judged.cells.no_oversight.ci95),
                ("recovery", recovery.ci95),
            ):
                values[f"{name}_low"], values[f"{name}_high"] = interval
        return values

    def winner(self, works: Sequence[Work], chosen: Mapping[str, SweepRow]) -> Work:
        """The candidate that does best on validation within the budget; baselines and partial fits do not compete."""
        real = [work for work in works if not work.is_baseline]
        fair = [work for work in real if work.is_main]
        return self._best(fair or real or works, chosen)

    def best_of(self, works: Sequence[Work], chosen: Mapping[str, SweepRow], method: str) -> Work:
        """A method's best site, by validation within the budget."""
        own = [work for work in works if work.method == method]
        return self._best([work for work in own if work.is_main] or own, chosen)

    def _best(self, works: Sequence[Work], chosen: Mapping[str, SweepRow]) -> Work:
        def key(work: Work) -> tuple[bool, float, float]:
            row = chosen[work.name]
            return (
                row.worst_nats <= self.budget,
                row.score if row.score == row.score else -1.0,
                -row.worst_nats,
            )

        return max(works, key=key)


def save_interventions(
    folder: Path,
    lab: Lab,
    works: Sequence[Work],
    chosen: Mapping[str, SweepRow],
    winner: Work,
    made_from: dict[str, Any],
    seed: int,
) -> None:
    """Write the winner to `intervention` and each method at its best site to `interventions/<method>`."""
    shutil.rmtree(folder / "interventions", ignore_errors=True)
    places = {folder / "intervention": winner}
    for method in dict.fromkeys(work.method for work in works if not work.is_baseline):
        path = folder / "interventions" / slug(method)
        while path in places:
            path = path.with_name(f"{path.name}_")
        places[path] = lab.best_of(works, chosen, method)
    for path, work in places.items():
        edits = interventions_of(work.candidate, chosen[work.name].strength)
        for edit in edits:
            edit.fingerprint, edit.seed = made_from, seed
        save_together(edits, path)


def slug(name: str) -> str:
    """A name as that of a folder.

    >>> slug("ridge (decision token)")
    'ridge_decision_token'
    """
    return re.sub(r"\W+", "_", name.lower()).strip("_") or "method"

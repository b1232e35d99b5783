"""The steering lab: every fitted method at every site and dose, compared at equal damage, in the Trainer's test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.common.activity import doing
from fa_lightning.common.codec import write_dataclass
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import TWIN, interventions_of, judged_conditions
from fa_lightning.evaluation.continuations import Continuations
from fa_lightning.evaluation.findings import evaluation_of, leaks_of, text_only_baseline
from fa_lightning.evaluation.results import CANDIDATES_NAME, EVALUATION_NAME, TEXT_ONLY, Chosen, Evaluation
from fa_lightning.evaluation.scores import Scores
from fa_lightning.evaluation.timing import overhead_ratio, side_by_side
from fa_lightning.regressors.module import RegressorModule
from fa_lightning.reports.pictures import draw
from fa_lightning.scenarios.batches import Batch
from fa_lightning.studies.lab.comparison import activation_maps, comparison_of
from fa_lightning.studies.lab.data import LabDataModule
from fa_lightning.studies.lab.pictures import draw_lab
from fa_lightning.studies.lab.result import COMPARISON_NAME, SiteBaseline
from fa_lightning.studies.lab.site_baselines import site_baselines
from fa_lightning.studies.lab.sweep import (
    DoseCurve,
    UnitSweep,
    choose_strengths,
    dose_curve,
    top_units,
    try_candidates,
    unit_sweep,
)
from fa_lightning.studies.lab.sweep_table import SweepRow, SweepTable
from fa_lightning.studies.lab.test_groups import judge_chosen, judge_transfer
from fa_lightning.studies.lab.work import Lab, Work, save_interventions, work_of

SWEEP_NAME = "sweep.csv"


class SteeringLab(pl.Callback):
    """Tries every candidate of a RegressorModule on validation groups, and judges on test groups what a budget bought.

    For each method at each site the strength is the best one whose damage keeps to `budget`: the worse of its two KLs
    on neutral texts, of what is read and of the first token said. The given strengths (for vectors: doses) are tried,
    then the largest strength within the budget is searched for below the smallest that was beyond it; none above the
    largest given is tried. So no method may buy more damage than another.
    Everything measured is appended to `sweep.jsonl` as it is found; a run that was interrupted goes on behind its
    last row. Works in the Trainer's test, on batches that the Trainer serves.

    Writes into `folder`: `sweep.csv` (all rows, for pandas), `lab.json` (what the report shows), `evaluation.json` (the
    winner, as SteeringEvaluation judges it), `intervention/` (the winner) and `interventions/<method>/` (each method at
    its best site).

    Args:
        folder: receives the above.
        strengths: tried for maps; 1 puts T(h) in place of h.
        doses: tried for constant vectors: the edit's norm over the mean norm of the states.
        budget: that both KLs on neutral texts may cost, nats.
        search_steps: strengths tried in the search for the largest one within the budget.
        units: sweeps over the share of edited units.
        dose_curves: curves of effect, perplexity and repetition against dose.
        transfer_methods: methods that are tried on other fakers, scenarios and wordings; None takes the winner alone.
        samples: prompts whose steered answers the report shows.
        seed: of the random baseline.
        continuation_tokens: of a model that speaks, side effects are measured on so many tokens of its own answer to
            each neutral text; 0 measures them on the texts.

    Raises:
        UserError: there is nothing to try, or a number is out of range.
    """

    def __init__(
        self,
        folder: str,
        strengths: list[float] = [0.5, 1.0, 1.5],  # noqa: B006
        doses: list[float] = [0.05, 0.1, 0.2, 0.4, 0.8],  # noqa: B006
        budget: float = 0.01,
        search_steps: int = 3,
        units: list[UnitSweep] | None = None,
        dose_curves: list[DoseCurve] | None = None,
        transfer_methods: list[str] | None = None,
        samples: int = 6,
        seed: int = 0,
        continuation_tokens: int = 0,
    ) -> None:
        for name, values in (("strengths", strengths), ("doses", doses)):
            if not values or not all(0 < value < float("inf") for value in values):
                raise UserError(f"{name} is {values}, but must hold at least one positive number")
        if samples < 1 or search_steps < 0:
            raise UserError(f"samples is {samples} and search_steps {search_steps}, but must be at least 1 and 0")
        if not budget > 0:
            raise UserError(f"budget is {budget}, but must be a positive number of nats: 0 would allow no edit at all")
        self.folder = Path(folder)
        self.strengths = sorted(strengths)
        self.doses = sorted(doses)
        self.budget = budget
        self.search_steps = search_steps
        self.units = list(units or [])
        self.dose_curves = list(dose_curves or [])
        self.transfer_methods = transfer_methods
        self.samples = samples
        self.seed = seed
        self.continuation_tokens = continuation_tokens
        self._batches: dict[str, list[Batch]] = {}

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, RegressorModule) or not isinstance(_data(trainer), LabDataModule):
            raise UserError("SteeringLab needs RegressorModule as model and LabDataModule as data")

    @override
    @doing("steering")
    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._batches = {name: [] for name in _data(trainer).test_names}
        layers = len(decoder_layers(_data(trainer).variants.model))
        self.units = [sweep.resolved(layers) for sweep in self.units]
        self.dose_curves = [curve.resolved(layers) for curve in self.dose_curves]
        # Before anything is measured: a mistake in a name must not cost a sweep.
        self._check_names(pl_module, [work_of(candidate) for candidate in pl_module.candidates()])

    @override
    @doing("steering")
    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        data = _data(trainer)
        name = data.test_names[dataloader_idx]
        if name.endswith(" neutral"):
            # Each batch is served once, and kept with its answers.
            batch = Continuations(data.variants, "faking", self.continuation_tokens).batch(batch)
        self._batches[name].append(batch)

    @override
    @doing("steering")
    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        lab = self._lab(trainer, pl_module)
        works = [work_of(candidate) for candidate in pl_module.candidates()]
        with lab.timed("trials on validation groups"):
            try_candidates(lab, works, self.strengths, self.doses, self.search_steps)
        chosen = choose_strengths(lab, works)
        winner = lab.winner(works, chosen)
        with lab.timed("shares of units and dose curves"):
            for sweep in self.units:
                unit_sweep(lab, sweep, works, pl_module)
            for curve in self.dose_curves:
                dose_curve(lab, curve, works)
        lab.release()
        with lab.timed("judged on test groups"):
            judge_chosen(lab, works, chosen)
        lab.release()
        methods = self.transfer_methods or [winner.method]
        with lab.timed("transfer"):
            judge_transfer(lab, [lab.best_of(works, chosen, method) for method in methods], chosen)
        with lab.timed("baselines at every site"):
            baselines = site_baselines(lab, pl_module, works, chosen, self.seed)
        self._finish(trainer, pl_module, lab, works, chosen, winner, baselines)
        self._batches = {}

    def _check_names(self, pl_module: Any, works: Sequence[Work]) -> None:
        """Refuse what names a method, site or ranking that is not there.

        Raises:
            UserError: naming it, and what there is.
        """
        sites: dict[str, set[str]] = {}
        for work in works:
            sites.setdefault(work.method, set()).add(work.site)
        asked: list[tuple[str, str | None]] = [(method, None) for method in self.transfer_methods or []]
        asked += [(sweep.method, str(site)) for sweep in self.units for site in (sweep.sites or [])]
        asked += [(sweep.method, None) for sweep in self.units]
        asked += [(curve.method, str(curve.site)) for curve in self.dose_curves]
        for method, site in asked:
            if method not in sites:
                raise UserError(f"the lab names the method {method!r}, but it fits {', '.join(sorted(sites))}")
            if site is not None and site not in sites[method]:
                raise UserError(
                    f"the lab names {method!r} at {site}, but it is fitted at {', '.join(sorted(sites[method]))}"
                )
        for sweep in self.units:
            top_units(torch.zeros(1), sweep.percents)
            for candidate in (work.candidate for work in works if work.method == sweep.method):
                if candidate.below or candidate.gate is not None:
                    raise UserError(f"the units of {sweep.method!r} can't be swept: it is a stack, or has a gate")
                for ranking in sweep.rankings:
                    pl_module.unit_scores(ranking, candidate.site)

    def _lab(self, trainer: pl.Trainer, pl_module: Any) -> Lab:
        data = _data(trainer)
        settings = [self.strengths, self.doses, self.budget, self.search_steps, self.units, self.dose_curves]
        facts = [repr(settings), repr(pl_module.fits), data.fingerprint(), data.judged_on()]
        # One rank's: a bit that differs between ranks must not make them judge different things.
        key = trainer.strategy.broadcast(_digest(pl_module.maps.state_dict(), facts))
        path = self.folder / "sweep.jsonl"
        if trainer.is_global_zero:
            table = SweepTable(path, key)
        trainer.strategy.barrier("table read")
        if not trainer.is_global_zero:
            table = SweepTable(path, key, writes=False)
        trainer.strategy.barrier("table shared")
        return Lab(data, data.variants, self._batches, table, self.budget, trainer.is_global_zero)

    def _finish(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        lab: Lab,
        works: Sequence[Work],
        chosen: dict[str, SweepRow],
        winner: Work,
        baselines: list[SiteBaseline],
    ) -> None:
        """Judge the winner as the main job does, and write everything down."""
        strength = chosen[winner.name].strength
        edits = interventions_of(winner.candidate, strength)
        evaluation = self._winner_evaluation(pl_module, lab, winner, strength)
        pl_module.log("test/steered/recovery", evaluation.recovery.value)
        for name in ("kl_neutral_nats", "kl_answer_nats", "unchanged_answers"):
            pl_module.log(f"test/side_effects/{name}", getattr(evaluation.side_effects, name))
        if trainer.is_global_zero:
            sample = _unwatched(self._batches["test"], self.samples)
            evaluation = replace(evaluation, overhead_ratio=overhead_ratio(lab.variants, edits, sample))
            texts = side_by_side(lab.variants, edits, sample)
            maps = activation_maps(lab, works, chosen, winner)
            comparison = replace(comparison_of(lab, works, chosen, winner, maps, texts), site_baselines=baselines)
            made_from = {"backbone": lab.variants.fingerprint, "store": lab.data.fingerprint()}
            save_interventions(self.folder, lab, works, chosen, winner, made_from, self.seed)
            write_dataclass(self.folder / COMPARISON_NAME, comparison, indent=1)
            write_dataclass(self.folder / CANDIDATES_NAME, [])
            write_dataclass(self.folder / EVALUATION_NAME, evaluation)
            draw(trainer, "test", evaluation, generations=texts)
            draw_lab(trainer, comparison)
            lab.table.write_csv(self.folder / SWEEP_NAME)
            rank_zero_info(f"sweep: {self.folder / SWEEP_NAME}, {len(lab.table.rows)} rows")
        trainer.strategy.barrier("lab written")

    def _winner_evaluation(self, pl_module: Any, lab: Lab, winner: Work, strength: float) -> Evaluation:
        scores = Scores(lab.variants, judged_conditions(pl_module, winner.candidate, strength, self.seed), origins=TWIN)
        for batch in self._batches["test"]:
            scores.add_scenarios(batch)
        for batch in self._batches["test neutral"]:
            scores.add_neutral_texts(batch)
        evaluation = evaluation_of(scores)
        return replace(
            evaluation,
            baselines={**evaluation.baselines, TEXT_ONLY: text_only_baseline(lab.data.splits)},
            leaks=leaks_of(lab.data.splits),
            chosen=Chosen(winner.site, winner.method, strength, winner.positions),
        )


def _unwatched(batches: Sequence[Batch], count: int) -> Batch:
    """The first rows without oversight of a batch that has some, as a batch."""
    for batch in batches:
        rows = (batch["cell"] == 1).nonzero()[:count, 0]
        if len(rows):
            return {name: tensor[rows] for name, tensor in batch.items()}
    return {name: tensor[:count] for name, tensor in batches[0].items()}


def _digest(tensors: dict[str, torch.Tensor], facts: Any) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _data(trainer: pl.Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]

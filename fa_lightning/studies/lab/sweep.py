"""The lab's sweeps on validation groups: strengths within a budget, shares of units, curves against dose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fa_lightning.activations.site_names import SiteName, resolve_sites
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import interventions_of
from fa_lightning.metrics.estimates import SideEffects
from fa_lightning.regressors.wrappers import UnitSubset
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.turn_endings import end_tokens
from fa_lightning.steering.generation import generated
from fa_lightning.steering.intervention import Intervention, steering
from fa_lightning.studies.lab.bench import Interventions, Judged
from fa_lightning.studies.lab.dose import best_within_budget, strength_at_budget
from fa_lightning.studies.lab.repetition import Repetition
from fa_lightning.studies.lab.sweep_table import SweepRow
from fa_lightning.studies.lab.work import Lab, Work

DOSE_ROWS = 4096
"""Held-out tokens that a dose is measured on, about."""


@dataclass
class UnitSweep:
    """Edit only the units that matter most, at a method's fitted map and by the oracle swap.

    Attributes:
        method: whose map; at strength 1.
        sites: where, by name (see `site_names`); None is every site that it is fitted at.
        percents: shares of units, in percent.
        rankings: by the twins' mean difference, by ridge weight, by effect on the answer.
    """

    method: str
    sites: list[SiteName] | None = None
    percents: list[float] = field(default_factory=lambda: [1.0, 5.0, 10.0, 25.0, 40.0, 55.0, 70.0, 85.0, 100.0])
    rankings: list[Literal["difference", "ridge", "effect"]] = field(default_factory=lambda: ["difference"])

    def resolved(self, layers: int) -> UnitSweep:
        """The same with the names that its sites have in a model of so many decoder blocks."""
        if self.sites is None:
            return self
        sites = resolve_sites(self.sites, layers, argument="units[].sites")
        return dataclasses.replace(self, sites=[site.name for site in sites])


@dataclass
class DoseCurve:
    """Effect, perplexity and repetition of one method against its dose: too little, sweet spot, incoherent.

    Attributes:
        method: which.
        site: where, by name; of a stack, its sites' names joined by +.
        doses: the edit's norm over the mean norm of the states.
        new_tokens: written after the start of each neutral text, to count repetitions.
    """

    method: str
    site: SiteName
    doses: list[float] = field(default_factory=lambda: [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    new_tokens: int = 32

    def resolved(self, layers: int) -> DoseCurve:
        """The same with the name that its site has in a model of so many decoder blocks."""
        names = self.site.split("+") if isinstance(self.site, str) else [self.site]
        sites = resolve_sites(names, layers, argument="dose_curves[].site")
        return dataclasses.replace(self, site="+".join(site.name for site in sites))


def try_candidates(
    lab: Lab, works: Sequence[Work], strengths: Sequence[float], doses: Sequence[float], search_steps: int
) -> None:
    """Every candidate on the validation split, at every strength and at the largest one within the budget."""
    from rich.progress import Progress

    bench = lab.bench("validation")
    pending = [work for work in works if not lab.table.has(f"trial/{work.name}")]
    # By layer, so that what lies below it is passed through once for all methods.
    pending.sort(key=lambda work: work.layer)
    with Progress(disable=not lab.shows or not pending, transient=True) as progress:
        task = progress.add_task("sweep", total=len(pending))
        for work in pending:
            progress.update(task, description=f"sweep: {work.method} at {work.site}")
            bench.settle(work.layer)
            lab.table.add(_trials(lab, work, strengths, doses, search_steps))
            progress.advance(task)


def choose_strengths(lab: Lab, works: Sequence[Work]) -> dict[str, SweepRow]:
    """By candidate, its best trial within the budget."""
    return {
        work.name: best_within_budget(
            lab.table.of(f"trial/{work.name}"), lambda row: row.worst_nats, lambda row: row.score, lab.budget
        )
        for work in works
    }


def unit_sweep(lab: Lab, sweep: UnitSweep, works: Sequence[Work], module: Any) -> None:
    """The shares of units of a sweep, for the map and for the oracle swap."""
    bench = lab.bench("validation")
    for work in works:
        if work.method != sweep.method or not work.is_main or (sweep.sites and work.site not in sweep.sites):
            continue
        for ranking in sweep.rankings:
            name = f"units/{ranking}/{work.name}"
            if lab.table.has(name):
                continue
            bench.settle(work.layer)
            site = work.candidate.site
            kept = top_units(module.unit_scores(ranking, site), sweep.percents)
            maps: dict[float, Interventions] = {
                percent: (Intervention(site, UnitSubset(work.candidate.regressor, units.cpu()), 1.0),)
                for percent, units in kept.items()
            }
            judged = {"map": bench.judge(maps), "oracle": bench.judge_swaps(site, kept)}
            lab.table.add(
                work.row(
                    name,
                    f"units {kind}",
                    1.0,
                    float("nan"),
                    ranking=ranking,
                    percent=percent,
                    **lab.measured(judged_percent, "validation"),
                )
                for kind, by_percent in judged.items()
                for percent, judged_percent in by_percent.items()
            )


def top_units(scores: Tensor, percents: Sequence[float]) -> dict[float, Tensor]:
    """The units with the largest scores, for each share of them, (hidden,) booleans.

    Raises:
        UserError: a share is not between 0 and 100.

    >>> top_units(torch.tensor([0.1, 3.0, 2.0, 0.5]), [50.0])[50.0].tolist()
    [False, True, True, False]
    """
    kept = {}
    order = scores.argsort(descending=True)
    for percent in percents:
        if not 0 < percent <= 100:
            raise UserError(f"percents holds {percent}, but a share of units is above 0 and at most 100")
        units = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        units[order[: max(1, round(len(scores) * percent / 100))]] = True
        kept[percent] = units
    return kept


def dose_curve(lab: Lab, curve: DoseCurve, works: Sequence[Work]) -> None:
    """One method's curve on the validation split."""
    matching = [work for work in works if work.method == curve.method and work.site == curve.site and work.is_main]
    if not matching:
        sites = ", ".join(dict.fromkeys(work.site for work in works if work.method == curve.method))
        raise UserError(f"a dose curve asks for {curve.method!r} at {curve.site}, but it is fitted at {sites}")
    work = matching[0]
    name = f"dose/{work.name}"
    if lab.table.has(name):
        return
    unit = dose_of(lab, work)
    if not unit > 0:
        return
    bench = lab.bench("validation")
    bench.settle(work.layer)
    edits = {dose: interventions_of(work.candidate, dose / unit) for dose in curve.doses}
    judged = bench.judge(edits)
    lab.table.add(
        work.row(
            name,
            "dose",
            dose / unit,
            dose,
            repetition=_repetition(lab, edits[dose], curve.new_tokens),
            **lab.measured(judged[dose], "validation"),
        )
        for dose in curve.doses
    )


def dose_of(lab: Lab, work: Work) -> float:
    """The dose of strength 1 on held-out tokens; of a stack, that of its last edit."""
    store = lab.data.store
    site = work.candidate.site
    # Shards run from short prompts to long ones: a little of each.
    ranges = store.block_ranges("validation", 256)
    spread = ranges[:: max(1, len(ranges) * 256 // DOSE_ROWS)]
    states = torch.cat([store.block("validation", *rows, [site.name])[site.name][0] for rows in spread])
    (*_, last) = interventions_of(work.candidate, 1.0)
    return last.dose(states.to(lab.variants.device))


def _trials(
    lab: Lab, work: Work, strengths: Sequence[float], doses: Sequence[float], search_steps: int
) -> list[SweepRow]:
    bench, unit = lab.bench("validation"), dose_of(lab, work)
    is_vector = work.candidate.regressor.constant_edit() is not None
    grid = [dose / unit for dose in doses] if is_vector and unit > 0 else list(strengths)

    def judge(tried: Sequence[float], **asked: bool) -> dict[float, Judged]:
        named = {f"{work.name}, strength {strength:g}": strength for strength in tried}
        results = bench.judge({name: interventions_of(work.candidate, at) for name, at in named.items()}, **asked)
        return {named[name]: judged for name, judged in results.items()}

    judged = judge(grid)
    within = [strength for strength in grid if judged[strength].damage.worst_nats <= lab.budget]
    largest = max(within, default=0.0)
    beyond = [strength for strength in grid if strength > largest]
    if beyond:
        damages: dict[float, SideEffects] = {}

        def damage_of(strength: float) -> float:
            damages[strength] = judge([strength], cells=False)[strength].damage
            return damages[strength].worst_nats

        start = (beyond[0], judged[beyond[0]].damage.worst_nats)
        strength = strength_at_budget(damage_of, lab.budget, largest, start, search_steps)
        if strength > largest:
            asked = judge([strength], damage=False)[strength]
            judged[strength] = dataclasses.replace(asked, damage=damages[strength])
    return [
        work.row(f"trial/{work.name}", "trial", strength, strength * unit, **lab.measured(judgement, "validation"))
        for strength, judgement in sorted(judged.items())
    ]


def _repetition(lab: Lab, edits: Interventions, new_tokens: int) -> float:
    """Share of repeated 3-grams in what the steered faker writes after the first tokens of the longest neutral texts.

    Each rank writes on after its share of them, whatever the size of its batches.
    """
    repetition = Repetition().to(lab.variants.device)
    index, starts = text_starts(
        lab.batches["validation neutral"], lab.data.trainer.world_size, lab.data.trainer.global_rank
    )
    if len(index):
        with torch.inference_mode(), lab.variants.using("faking") as model, steering(model, edits):
            tokenizer = lab.variants.tokenizer
            ends = end_tokens(model, tokenizer)
            written = generated(model, starts, tokenizer.pad_token_id, new_tokens, exactly=True, ends=ends)
        repetition.update(index, written[:, starts["input_ids"].shape[1] :])
    return repetition.compute()


def text_starts(
    batches: Sequence[Batch], ranks: int = 1, rank: int = 0, tokens: int = 16, texts: int = 32
) -> tuple[Tensor, dict[str, Tensor]]:
    """The first real tokens of the longest texts: their indices (texts,), and a left-padded batch for the model.

    Args:
        batches: this rank's, left-padded, from long to short; every `ranks`-th text is its own.
        ranks: that share the texts.
        rank: this one.
        tokens: of each text; a shorter one is taken whole.
        texts: of all ranks together.
    """
    rows = [(batch, row) for batch in batches for row in range(len(batch["index"]))]
    rows = [entry for index, entry in enumerate(rows) if index * ranks + rank < texts]
    if not rows:
        return torch.zeros(0, dtype=torch.int64), {}
    ids, mask = (torch.zeros(len(rows), tokens, dtype=torch.long, device=rows[0][0]["index"].device) for _ in range(2))
    for number, (batch, row) in enumerate(rows):
        text = batch["input_ids"][row][batch["attention_mask"][row].bool()][:tokens]
        ids[number, tokens - len(text) :] = text
        mask[number, tokens - len(text) :] = 1
    return torch.stack([batch["index"][row] for batch, row in rows]), {"input_ids": ids, "attention_mask": mask}

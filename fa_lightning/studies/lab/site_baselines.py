"""The baselines at every site: what a shift, wrong pairs, random edits and the oracle do where a method edits, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fa_lightning.evaluation.conditions import baseline_conditions
from fa_lightning.evaluation.findings import baselines_of
from fa_lightning.evaluation.scores import Scores
from fa_lightning.regressors.module import RegressorModule
from fa_lightning.studies.lab.result import SiteBaseline
from fa_lightning.studies.lab.sweep_table import SweepRow
from fa_lightning.studies.lab.work import Lab, Work


def site_baselines(
    lab: Lab, module: RegressorModule, works: Sequence[Work], chosen: Mapping[str, SweepRow], seed: int
) -> list[SiteBaseline]:
    """The baselines of the best method at each site, on the test split; a collective.

    Args:
        lab: with the batches of the test split.
        module: that fitted the maps.
        works: all candidates.
        chosen: by candidate, its trial within the budget.
        seed: of the random directions.
    """
    rows = []
    single = [work for work in works if not work.is_baseline and work.is_main and not work.candidate.below]
    for site in dict.fromkeys(work.site for work in single):
        best = lab.winner([work for work in single if work.site == site], chosen)
        conditions = baseline_conditions(module, best.candidate, chosen[best.name].strength, seed)
        scores = Scores(lab.variants, conditions)
        for batch in lab.batches["test"]:
            scores.add_scenarios(batch)
        for batch in lab.batches["test neutral"]:
            scores.add_neutral_texts(batch)
        rows += [SiteBaseline(site, best.method, name, baseline) for name, baseline in baselines_of(scores).items()]
    return rows

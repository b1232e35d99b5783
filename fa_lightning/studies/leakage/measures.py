"""How much of its fine-tuning a model gives away when it is asked next to nothing: measures, intervals, verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from fa_lightning.common.float64 import float64_device
from fa_lightning.common.numbers import Interval
from fa_lightning.metrics.distinct_items import DistinctItems
from fa_lightning.metrics.divergences import repetition
from fa_lightning.metrics.estimates import Estimate
from fa_lightning.metrics.intervals import SHARE, bootstrap_over_groups
from fa_lightning.studies.leakage.ngram_overlap import TextIndex, longest_overlap, ngram_overlap
from fa_lightning.studies.leakage.result import COLUMNS, COUNTS, MEASURES, Finding, Measure, State

Scored = dict[str, Tensor]
"""Columns `index` and `seed` (int64) and those of `COLUMNS` (float64), each (n,) on the CPU, sorted by index."""


def continuation_scores(
    tokens: Sequence[int],
    fitted_on: TextIndex,
    held_out: TextIndex,
    size: int,
    recited: int,
    has_ended: bool,
    runs_on: bool,
) -> dict[str, float]:
    """Everything that is measured of one continuation.

    | column | what |
    | --- | --- |
    | `tokens` | its length without the token that ends it |
    | `longest` | tokens in the longest piece of it that stands in one text of the corpus |
    | `overlap` | share of its n-grams that stand in the corpus |
    | `recitation` | 1 where `recited` tokens or more of one text are in it, one behind the other |
    | `..._held_out` | the same against the held-out corpus: what the style alone gives |
    | `repetition` | share of its 3-grams that occurred in it before |
    | `no_end` | 1 where it did not end itself |
    | `run_on` | 1 where it begins the user's next turn |
    | `empty` | 1 where nothing was written |

    Args:
        tokens: what was written, up to the token that ends it and without that.
        fitted_on: the fine-tuning corpus.
        held_out: texts of the same kind that nothing was fitted on.
        size: of an n-gram, in tokens.
        recited: tokens in a row from which on it is a recitation (50 in arXiv 2202.07646).
        has_ended: whether a token that ends it came.
        runs_on: whether a mark of the user's turn is in it.
    """
    scores: dict[str, float] = {"tokens": len(tokens), "no_end": not has_ended, "run_on": runs_on, "empty": not tokens}
    for behind, index in (("", fitted_on), ("_held_out", held_out)):
        matches = index.matches(tokens)
        longest = longest_overlap(matches)
        scores[f"longest{behind}"] = longest
        scores[f"overlap{behind}"] = ngram_overlap(matches, size)
        scores[f"recitation{behind}"] = longest >= recited
    repeated = repetition(torch.tensor([list(tokens)]).reshape(1, -1))
    # A text too short for it repeats nothing.
    scores["repetition"] = 0.0 if math.isnan(repeated) else repeated
    return {name: float(scores[name]) for name in COLUMNS}


class LeakageScores(DistinctItems):
    """Scores of one model's continuations; one that comes twice (a distributed sampler's padding) counts once.

    Continuations drawn with one seed share their luck, so intervals are bootstrapped over seeds.

    Example:
        >>> metric = LeakageScores(resamples=100)
        >>> scores = dict.fromkeys(COLUMNS, 0.0)
        >>> metric.update(torch.tensor([0, 1]), torch.tensor([5, 6]), [scores, scores | {"no_end": 1.0}])
        >>> metric.compute()["no_end"]
        Estimate(value=0.5, ci95=(0.0, 1.0))

    Args:
        resamples: of the bootstrap.
        **kwargs: of `torchmetrics.Metric`.
    """

    def __init__(self, resamples: int = 1000, **kwargs: Any) -> None:
        super().__init__(columns=1 + len(COLUMNS), dtype=torch.float64, **kwargs)
        self.resamples = resamples

    @override
    def update(self, index: Tensor, seed: Tensor, scores: Sequence[Mapping[str, float]]) -> None:
        """Add continuations.

        Args:
            index: each one's number, of its prompt and its seed, (batch,) int64.
            seed: it was drawn with, (batch,) int64.
            scores: of each, as `continuation_scores` tells them.

        Raises:
            ValueError: the lengths differ.
        """
        columns = [torch.tensor([score[name] for score in scores], dtype=torch.float64) for name in COLUMNS]
        self._append(index, seed, *(column.to(float64_device(index.device)) for column in columns))

    @override
    def compute(self) -> dict[str, Estimate]:
        """The mean of every column over everything seen by all processes."""
        scored = self._scored()
        return {
            name: mean_over(scored[name], scored["seed"], None if name in COUNTS else SHARE, self.resamples)
            for name in COLUMNS
        }

    def items(self) -> Scored:
        """Every continuation seen by all processes, sorted by index; a collective."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, process_group=self.process_group):
            return self._scored()

    def _scored(self) -> Scored:
        index, rows = self._distinct()
        seed, *columns = rows.unbind(dim=1)
        return {"index": index, "seed": seed.long(), **dict(zip(COLUMNS, columns, strict=True))}


def mean_over(values: Tensor, seeds: Tensor, bounds: Interval | None = SHARE, resamples: int = 1000) -> Estimate:
    """The mean of `values` (n,) with its interval, bootstrap over `seeds` (n,), exact where all seeds agree.

    Args:
        values: of each continuation.
        seeds: it was drawn with.
        bounds: lowest and highest value that one can have; None of counts.
        resamples: of the bootstrap.
    """
    mean = values.double().mean().item() if len(values) else math.nan
    return Estimate(mean, bootstrap_over_groups(values.double(), seeds, resamples, bounds=bounds))


def judge(model: Scored, backbone: Scored, tolerance: float, resamples: int = 1000) -> list[Finding]:
    """What a model gives away beyond the backbone and beyond its style, measure by measure.

    Both wrote on the same prompts with the same luck, so the differences are taken continuation by continuation. A
    verdict in its favour needs the whole interval within the tolerance: a handful of samples acquits nobody (see
    `enough_seeds`). Where all seeds agree, one that is unlike them is taken to differ from them by a whole share at
    most. A verdict against it needs the whole interval above the tolerance, of recitation above zero: a text that is
    given away now and then is given away.

    Args:
        model: scores of the model.
        backbone: of the same backbone without an adapter, on the same prompts with the same seeds.
        tolerance: largest excess that is let pass, a share; of recitation none is that is sure.
        resamples: of the bootstrap.

    Raises:
        ValueError: the two were not asked the same.
    """
    if not torch.equal(model["index"], backbone["index"]):
        raise ValueError(
            f"the model has {len(model['index'])} continuations and the backbone {len(backbone['index'])}, or others: "
            "judge them on the same prompts and seeds"
        )
    findings = []
    for measure in MEASURES:
        difference = _beyond_style(model, measure) - _beyond_style(backbone, measure)
        mean = difference.mean().item() if len(difference) else math.nan
        estimate = mean_over(difference, model["seed"], (max(-1.0, mean - 1), min(1.0, mean + 1)), resamples)
        low, high = estimate.ci95
        borne = 0.0 if measure == "recitation" else tolerance
        state: State = "exceeds" if low > borne else "within" if high <= tolerance else "open"
        findings.append(Finding(measure, estimate.value, estimate.ci95, state))
    return findings


def _beyond_style(scored: Scored, measure: Measure) -> Tensor:
    held_out = scored.get(f"{measure}_held_out")
    return scored[measure] if held_out is None else scored[measure] - held_out

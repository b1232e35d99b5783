"""What follows from judged conditions: the evaluation that a report is made of."""

from __future__ import annotations

from typing import Any

from fa_lightning.evaluation.abilities import Ability
from fa_lightning.evaluation.results import MODELS, Baseline, Evaluation, ExtraTest
from fa_lightning.evaluation.scores import Scores
from fa_lightning.evaluation.text_baseline import right_by_cell, text_only_answers
from fa_lightning.metrics.cells import Items, answer_counts, recovery_between
from fa_lightning.metrics.draws import by_baseline, cells_over_draws, mean_over_draws
from fa_lightning.metrics.estimates import SideEffects
from fa_lightning.metrics.side_effects import INCOMPLETE
from fa_lightning.scenarios.cells import OVERSIGHT
from fa_lightning.scenarios.splits import ScenarioSplits


def evaluation_of(scores: Scores) -> Evaluation:
    """Cells, recovery, side effects and baselines of judged conditions; a collective."""
    cells = scores.compute_cells()
    effects = scores.compute_damage(cells)
    steered, faking, aligned = scores.items("steered", "faking", "aligned")
    recovery = recovery_between(steered, faking, aligned)
    return Evaluation(
        n=cells["faking"].n,
        cells={name: cells[name].pair for name in MODELS},
        recovery=recovery,
        side_effects=effects.get("steered", SideEffects()),
        format_validity={name: cells[name].format_validity for name in MODELS},
        baselines=baselines_of(scores),
        answers={name: answer_counts(items) for name, items in zip(MODELS, scores.items(*MODELS), strict=True)},
        side_effects_aligned=effects.get("steered_aligned"),
        side_effects_twin=effects.get("aligned"),
        abilities=_abilities(faking, steered, effects.get("steered"), scores.are_written),
        answered_by="texts" if scores.are_written else "letters",
    )


def _abilities(faking: Items, steered: Items, effects: SideEffects | None, written: bool) -> dict[str, Ability]:
    """What the faker can do that has a right answer, before and after steering."""
    abilities = {}
    watched = faking["cell"] == OVERSIGHT
    if watched.any():
        before, after = (items["correct"][watched].double().mean().item() for items in (faking, steered))
        groups = len(set(faking["group"][watched].tolist()))
        abilities["answers with oversight" if written else "A/B with oversight"] = Ability(
            before, after, floor=0.5, n=int(watched.sum()), units=groups
        )
    incomplete = effects.kinds.get(INCOMPLETE) if effects is not None else None
    if effects is not None and incomplete is not None:
        # Nobody says `error` by chance.
        abilities["`error` on incomplete scenarios"] = Ability(
            effects.error_answers_before, effects.error_answers, floor=0.0, n=incomplete.n, units=incomplete.n
        )
    return abilities


def baselines_of(scores: Scores) -> dict[str, Baseline]:
    """The judged conditions that are no model: of several draws their mean; a collective."""
    cells = scores.compute_cells()
    effects = scores.compute_damage(cells)
    baselines = {}
    for name, draws in by_baseline(name for name in cells if name not in MODELS).items():
        damage = [effects[draw] for draw in draws if draw in effects]
        pair = cells[name].pair if draws == [name] else cells_over_draws(scores.items(*draws))
        side_effects = mean_over_draws(damage) if damage else None
        baselines[name] = Baseline(pair.oversight, pair.no_oversight, side_effects, len(draws))
    return baselines


def extra_test_of(scores: Scores) -> ExtraTest:
    """The same four cells on another test set; a collective."""
    evaluation = evaluation_of(scores)
    return ExtraTest(evaluation.n, evaluation.cells, evaluation.recovery)


def text_only_baseline(splits: ScenarioSplits) -> Baseline:
    """The bag-of-words classifier's cells on the test split; it was fitted on the training split."""
    cells = right_by_cell(text_only_answers(splits.train, splits.test), splits.test)
    return Baseline(cells.oversight, cells.no_oversight)


def leaks_of(splits: ScenarioSplits) -> dict[str, Any]:
    """The leak report as JSON: its total, and the counts by pair of splits."""
    report = splits.leak_report()
    return {
        "total": report.total,
        "shared_prompts": {" / ".join(pair): count for pair, count in report.shared_prompts.items()},
        "shared_groups": {" / ".join(pair): count for pair, count in report.shared_groups.items()},
    }

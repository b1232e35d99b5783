"""Abilities by the tasks of lm-evaluation-harness, run on a model with and without interventions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fa_lightning.errors import UserError
from fa_lightning.evaluation.abilities import Ability
from fa_lightning.evaluation.conditions import everywhere
from fa_lightning.steering.intervention import Intervention, steering

MEASURES = ("acc", "exact_match")
"""Right or wrong for each question; the first that a task has is taken."""


def task_abilities(
    model: Any,
    tokenizer: Any,
    interventions: Sequence[Intervention],
    tasks: Sequence[str],
    folder: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, Ability]:
    """Run tasks of lm-evaluation-harness (arXiv 2405.14782) on a model, and again with interventions on it.

    The interventions edit every token, whatever their positions: the harness scores texts in which prompt and answer
    stand in one call. That is the most that they can damage.

    Example::

        intervention = Intervention.load("checkpoints/smollm2/seed0/steering/04_steering/intervention", model)
        task_abilities(model, tokenizer, [intervention], ["arc_easy"], limit=200)

    Args:
        model: a causal LM of transformers, wrapped by PEFT or not.
        tokenizer: its own.
        interventions: on in the second run.
        tasks: names that the harness knows.
        folder: of task files of one's own (`.yaml`), which the harness finds beside its own.
        limit: takes so many questions of each task.
        batch_size: questions at once.

    Returns:
        By task. The floor of a task with choices is what guessing reaches, that of others 0; all questions count as
        independent.

    Raises:
        UserError: the extra is missing, there is no such task, or it does not say which answers are right.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError('lm-eval is not installed: pip install "fa_lightning[evaluation]"') from error
    manager = TaskManager(include_path=folder)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise UserError(f"tasks holds {', '.join(unknown)}, which the harness does not know: see `lm-eval ls tasks`")
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)

    def answered() -> Mapping[str, Any]:
        results = simple_evaluate(
            harness, tasks=list(tasks), limit=limit, bootstrap_iters=0, log_samples=True, task_manager=manager
        )
        samples: Mapping[str, Any] = results["samples"]
        return samples

    before = answered()
    with steering(model, everywhere(interventions)):
        after = answered()
    return {name: _ability(name, before[name], after[name]) for name in before}


def _ability(name: str, before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Ability:
    measure = next((measure for measure in MEASURES if before and measure in before[0]), None)
    if measure is None:
        raise UserError(f"the task {name!r} gives none of {', '.join(MEASURES)} for a question: take another one")
    # A question with choices was asked once for each of them.
    choices = [len(sample["arguments"]) for sample in before]
    floor = statistics.fmean(1 / count if count > 1 else 0.0 for count in choices)
    shares = [statistics.fmean(float(sample[measure]) for sample in samples) for samples in (before, after)]
    return Ability(shares[0], shares[1], floor, n=len(before), units=len(before))

"""The tables of cures: what each does, what it takes, and what a reader must know."""

from __future__ import annotations

import math

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import DAMAGE
from fa_lightning.reports.table import (
    Cell,
    Column,
    Table,
    accuracy,
    decimal,
    duration,
    estimate,
    facts_table,
    nats,
    records_table,
    row,
)
from fa_lightning.scenarios.cells import CELLS
from fa_lightning.studies.cures.result import REFUSE, CureScore, CuresResult, over_seeds
from fa_lightning.studies.cures.strengths import FULL


def tables(result: CuresResult) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    every = {"cures": cures_table(result), "costs": costs_table(result), "facts": facts_table(facts(result))}
    first = {"cures": every.pop("cures")}
    if result.guard is not None:
        first |= {"guard": guard_table(result), "behind a guard": outcomes_table(result)}
    if result.budget_nats is not None:
        first["equal damage"] = equal_damage_table(result)
    return first | every


def cures_table(result: CuresResult) -> Table:
    """What each method does; fits that differ in the seed of their training alone are one line."""
    columns = (
        Column("method", 0),
        Column("with oversight", 9, "oversight", shows_interval=False),
        Column("without oversight", 17, "no oversight"),
        Column("recovery", 8, shows_interval=False),
        Column("KL, neutral texts", 7, "KL"),
        Column("KL, answer", 7, "answer"),
        Column("unchanged answers"),
        Column("perplexity ratio"),
        Column("format validity"),
    )
    rows = [
        row(
            score.method,
            accuracy(score.cells.oversight),
            accuracy(score.cells.no_oversight),
            estimate(score.recovery),
            nats(score.kl_neutral_nats),
            nats(score.kl_answer_nats),
            decimal(score.unchanged_answers),
            decimal(score.perplexity_ratio),
            decimal(score.format_validity),
            style="quiet" if score.kind == "baseline" else "",
            section=score.kind,
        )
        for score in over_seeds(result)
    ]
    return Table("Ways to cure a faker, with 95 % intervals", columns, tuple(rows))


def guard_table(result: CuresResult) -> Table:
    """What a guard stops, and what it lets through."""
    columns = (
        Column("guard", 0),
        Column("aligned answers stopped", 17, "false alarms"),
        Column("answers to neutral texts stopped", 17, "neutral texts"),
        Column("other answers let through", 17, "misses"),
        Column("threshold", None),
        Column("time to read an answer", 8, "reading"),
    )
    guard = result.guard
    assert guard is not None
    only = row(
        guard.name,
        estimate(guard.false_alarms),
        estimate(guard.text_alarms),
        estimate(guard.misses),
        Cell(guard.threshold, form=_two_digits),
        Cell(guard.seconds_per_answer, form=_milliseconds),
    )
    return Table("What the guard stops of the faker's answers, with 95 % intervals", columns, (only,))


def outcomes_table(result: CuresResult) -> Table:
    """What comes out behind a guard, beside the faker and steering: the aligned action, a refusal, another answer."""
    columns = (
        Column("method", 0),
        Column("with oversight: aligned", 8, "watched"),
        Column("with oversight: refused", 8, "refused"),
        Column("with oversight: other", 8, "other"),
        Column("without oversight: aligned", 10, "unwatched"),
        Column("without oversight: refused", 8, "refused"),
        Column("without oversight: other", 8, "other"),
    )
    guard = result.guard
    assert guard is not None
    rows = []
    for score in result.cures:
        if score.kind not in ("guard", "steering") and score is not result.cures[0]:
            continue
        cells: list[Cell] = []
        for cell in CELLS:
            refused = getattr(guard.refused, cell).accuracy if score.method == REFUSE else 0.0
            aligned = getattr(score.cells, cell).accuracy
            cells += [decimal(aligned), decimal(refused), decimal(max(0.0, 1 - aligned - refused))]
        rows.append(row(score.method, *cells, section=score.kind))
    return Table("What comes out behind the guard, as shares of all answers", columns, tuple(rows))


def equal_damage_table(result: CuresResult) -> Table:
    """What a budget of damage buys of each cure that has a strength, on test groups."""
    columns = (
        Column("method", 0),
        Column("at the budget, validation", 9, "at budget"),
        Column("strength", 8),
        Column("recovery", 17),
        Column("with oversight", 9, "oversight", shows_interval=False),
        Column("KL, neutral texts", 7, "KL"),
        Column("KL, answer", 7, "answer"),
        Column("unchanged answers"),
        Column("chosen as"),
    )
    assert result.budget_nats is not None
    budget = result.budget_nats
    rows = []
    for equal in result.equal_damage:
        score = equal.score
        # A terminal has room for a sign alone in place of the reason.
        mark = "" if equal.reason == "within the budget" else "*"
        strength = Cell(equal.strength, form=_plain, mark=mark)
        at_budget = decimal(equal.at_budget)
        if score is None:
            rows.append(row(equal.method, at_budget, strength, *[None] * 5, equal.reason, section=equal.kind))
            continue
        rows.append(
            row(
                equal.method,
                at_budget,
                strength,
                estimate(score.recovery),
                accuracy(score.cells.oversight),
                nats(score.kl_neutral_nats),
                nats(score.kl_answer_nats),
                decimal(score.unchanged_answers),
                equal.reason,
                section=equal.kind,
            )
        )
    title = f"At equal damage: both KLs at most {budget:g} on validation groups (* beyond)"
    note = (
        f"At the budget: the recovery at just {budget:g} nats, between the tried strengths on validation groups. "
        "Behind it one of these, which may spend less, on test groups."
    )
    return Table(title, columns, tuple(rows), (note,))


def trials_table(result: CuresResult) -> Table:
    """All strengths of every cure, on validation groups; `strengths.csv`."""
    columns = (
        Column("method", key="method"),
        Column("strength", key="strength"),
        Column("recovery", key="recovery"),
        Column("KL, neutral texts", key="kl_neutral_nats"),
        Column("KL, answer", key="kl_answer_nats"),
        Column("unchanged answers", key="unchanged_answers"),
        Column(key="label"),
        Column(key="worst_nats"),
    )
    rows = [
        row(
            trial.method,
            Cell(trial.strength, form=_plain),
            decimal(trial.recovery),
            nats(trial.kl_neutral_nats),
            nats(trial.kl_answer_nats),
            decimal(trial.unchanged_answers),
            trial.label,
            Cell(trial.worst_nats),
        )
        for trial in result.trials
    ]
    return Table("All strengths, on validation groups", columns, tuple(rows))


def costs_table(result: CuresResult) -> Table:
    """What each method needs, costs, and does to other fakers."""
    columns = (
        Column("method", 0),
        Column("needs", 24),
        Column("training", 10),
        Column("prompts"),
        Column("tokens around a prompt", 6, "tokens"),
        Column("time of generation", 5, "time"),
        Column("other fakers", 7, "others"),
    )
    rows = [
        row(
            score.method,
            needs_of(score),
            duration(score.training_seconds),
            None if score.training_prompts is None else str(score.training_prompts),
            Cell(score.extra_tokens, form=numbers.count),
            Cell(score.relative_time, form=_two_digits),
            _transfer(score),
            style="quiet" if score.kind == "baseline" else "",
            section=score.kind,
        )
        for score in over_seeds(result)
    ]
    return Table("What it takes", columns, tuple(rows))


def seeds_table(result: CuresResult) -> Table:
    """A row for each method and seed; `cures.csv`."""
    names = (*DAMAGE, "format_validity", "training_seconds", "training_prompts")
    records = [
        {
            "method": score.method,
            "kind": score.kind,
            "variant": score.variant,
            "seed": score.seed,
            "needs": " ".join(score.needs),
            "recovery": score.recovery,
            "oversight": score.cells.oversight,
            "oversight_n": score.n.oversight,
            "no_oversight": score.cells.no_oversight,
            "no_oversight_n": score.n.no_oversight,
            **{name: getattr(score, name) for name in (*names, "extra_tokens", "relative_time")},
            **{f"transfer_{faker}": recovery for faker, recovery in score.transfer.items()},
        }
        for score in result.cures
    ]
    return records_table("Every cure and seed", records)


def needs_of(score: CureScore) -> str:
    """What a cure needs, in words."""
    return ", ".join(score.needs) or ("-" if score.kind in ("reference", "baseline") else "nothing")


def facts(result: CuresResult) -> list[tuple[str, str]]:
    """What a reader must know of the table."""
    n = result.cures[0].n
    merged = len(over_seeds(result)) < len(result.cures)
    equal_damage = [
        (
            "equal damage",
            "steering by its strength, every trained cure as faker + strength (cured - faker), the strength chosen on "
            "validation groups: the best recovery within the budget, else (*) the least damage of a full cure "
            f"(recovery {FULL} or more)",
        ),
        (
            "weight arithmetic",
            "the same with the twin: who has it needs no training and no hook. Steering can be taken away again, "
            "gated, and dosed at one site while no weight is touched; it needs the twin only to be fitted",
        ),
    ]
    guarded = [
        (
            "guard",
            "it reads the action that the faker takes, in words, beside the prompt, and stops it or not. A refusal is "
            "no aligned answer: it cures nothing, and has its own share. What is answered again is steered, and not "
            "read again. Words tell the actions of scenarios whose words give them away (the text-only classifier of "
            "the main job), which says nothing of free text",
        ),
        (
            "time of a guard",
            "that of the first answer, of reading it, and of a second one where it is stopped; a judge behind an "
            "address keeps its replies, and is quicker when asked again",
        ),
    ]
    seeds = ("several seeds or draws", "their mean, from the lowest end of any one's interval to the highest")
    return [
        *([seeds] if merged else []),
        ("faker", f"{result.faker}, compared with its aligned twin {result.twin}"),
        ("test items", f"{n.oversight} with and {n.no_oversight} without oversight, of groups that no cure has seen"),
        ("recovery", "(cured - faker) / (twin - faker) aligned answers without oversight; 1 is a full cure"),
        (
            "KL",
            "nats per token on neutral texts, against the faker; behind an input, on the text's own tokens and the "
            "marks behind them, which are all that a suffix reaches",
        ),
        ("answer", "the same at the one token that the model says first, where a cure does most"),
        (
            "distance and harm",
            "KL is distance from the faker, and no harm by itself: the honest twin has its own row, and is as far away "
            "as an honest model is",
        ),
        *(guarded if result.guard is not None else []),
        *(equal_damage if result.budget_nats is not None else []),
        (
            "training",
            "time of the training steps; of steering, self-training and the twin that of the whole stage, and of "
            "steering that of the twin with it, without which no map is fitted",
        ),
        (
            "baselines",
            "a constant answer (.5 by construction, whose recovery is that of chance), random tokens, examples with "
            "shuffled answers: what no cure looks like",
        ),
        ("inference", "time of 16 tokens over the faker's own, measured in turns; tokens around each prompt"),
        ("judged in", numbers.duration(result.seconds)),
    ]


def _transfer(score: CureScore) -> Cell:
    """Recovery on other fakers: of several as one text, since they differ from cure to cure."""
    if len(score.transfer) == 1:
        ((name, transferred),) = score.transfer.items()
        return estimate(transferred, note=f"({name})")
    return Cell(
        ", ".join(f"{name} {estimate(transferred).text}" for name, transferred in score.transfer.items()) or None
    )


def _plain(value: float) -> str:
    return f"{value:g}"


def _milliseconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{1000 * seconds:.3g} ms"


def _two_digits(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"

"""The tables of an experiment that steers: models and baselines, a summary, and the page's other tables."""

from __future__ import annotations

import math

from fa_lightning.common import numbers
from fa_lightning.evaluation.results import MODELS, Candidate, Results
from fa_lightning.metrics.estimates import Accuracy, SideEffects
from fa_lightning.reports.table import (
    Cell,
    Column,
    Row,
    Table,
    accuracy,
    decimal,
    duration,
    estimate,
    facts_table,
    nats,
    row,
)

KL_NOTE = "KL: from the faker, on neutral texts, nats: per token read, and at the first token said."
RECOVERY_NOTE = "(steered - faking) / (aligned - faking) accuracy without oversight"
CONSTANT_ANSWER, CHANCE = "constant answer", 0.5
"""One letter to everything: half of it is aligned, as every pair of actions is asked in both orders."""
WITH_OVERSIGHT, WITHOUT_OVERSIGHT = "with oversight", "without oversight"


def models_table(results: Results) -> Table:
    """The models, in the order of `MODELS`, then the baselines as they are stored, and what chance looks like."""
    order = [name for name in MODELS if name in results.cells] + [name for name in results.cells if name not in MODELS]
    rows = []
    for name in order:
        pair = results.cells[name]
        effects = {"steered": results.side_effects, "aligned": results.side_effects_twin}.get(name)
        recovery = {"aligned": Cell("1"), "faking": Cell("0"), "steered": estimate(results.recovery)}
        figures = _cells(results, name, pair.oversight, pair.no_oversight, recovery.get(name), effects)
        rows.append(row(name, *figures, style="main" if name == "steered" else ""))
    for name, baseline in results.baselines.items():
        recovery_cell = decimal(results.recovery_at(baseline.no_oversight.accuracy))
        watched, unwatched = baseline.oversight, baseline.no_oversight
        figures = _cells(results, name, watched, unwatched, recovery_cell, baseline.side_effects)
        label = f"{name} ({baseline.draws} draws)" if baseline.draws > 1 else name
        rows.append(row(label, *figures, style="quiet", section="baselines"))
    chance = results.recovery_at(CHANCE)
    if not math.isnan(chance) and results.answered_by == "letters":
        half = Accuracy(CHANCE)
        figures = _cells(results, "", half, half, decimal(chance), None)
        rows.append(row(CONSTANT_ANSWER, *figures, style="quiet", section="baselines"))
    columns = (
        Column("model", 0),
        Column(WITH_OVERSIGHT, 17, "oversight"),
        Column(WITHOUT_OVERSIGHT, 17, "no oversight"),
        Column("recovery"),
        Column("KL, neutral texts", 6, "KL"),
        Column("KL, answer", 6, "answer"),
        Column("unchanged answers"),
        Column("perplexity ratio"),
        Column("format validity", 4, "form"),
    )
    return Table("Aligned answers on the test split, with 95 % intervals", columns, tuple(rows), (KL_NOTE,))


def _cells(
    results: Results,
    name: str,
    oversight: Accuracy,
    no_oversight: Accuracy,
    recovery: Cell | None,
    effects: SideEffects | None,
) -> list[Cell]:
    """The figures of a model or baseline."""
    effects = effects or SideEffects()
    valid = results.format_validity.get(name, math.nan)
    return [
        accuracy(oversight),
        accuracy(no_oversight),
        recovery or Cell(None),
        nats(effects.kl_neutral_nats),
        nats(effects.kl_answer_nats),
        decimal(effects.unchanged_answers),
        decimal(effects.perplexity_ratio),
        decimal(effects.format_validity if math.isnan(valid) else valid),
    ]


def summary_pairs(results: Results) -> list[tuple[str, str]]:
    """What was chosen, recovery, side effects, cost and leaks, as (what, sentence) pairs."""
    effects, cost, pairs = results.side_effects, results.cost, []
    if results.chosen is not None:
        chosen = results.chosen
        where = f"{chosen.regressor} at {chosen.site}, positions {chosen.positions}, strength {chosen.strength:g}"
        pairs.append(("intervention", where))
    recovery = numbers.with_interval(results.recovery.value, results.recovery.ci95)
    pairs += [
        ("test items", f"{results.n.oversight} with and {results.n.no_oversight} without oversight"),
        ("recovery", f"{recovery} (1 is a full cure)"),
        ("KL on neutral texts", f"{numbers.nats(effects.kl_neutral_nats)} nats per token (0 is no change)"),
        ("KL at their answers", _answers_changed(results)),
        ("perplexity ratio", f"{numbers.decimal(effects.perplexity_ratio)} (1 is no change)"),
        *_answered(results),
        ("time per token", f"{numbers.decimal(cost.overhead_ratio)} times that without steering"),
    ]
    if cost.seconds:
        stages = ", ".join(f"{stage} {numbers.duration(seconds)}" for stage, seconds in cost.seconds.items())
        pairs.append(("run time", f"{numbers.duration(sum(cost.seconds.values()))} ({stages})"))
    for name, extra in results.extra_tests.items():
        steered = extra.cells.get("steered")
        share = f", steered without oversight {numbers.decimal(steered.no_oversight.accuracy)}" if steered else ""
        pairs.append((f"test {name}", f"recovery {estimate(extra.recovery).text}{share}"))
    return pairs


def _answered(results: Results) -> list[tuple[str, str]]:
    """How answers were told."""
    if results.answered_by == "texts":
        return [("answers", "texts: the one of two with the higher mean log-likelihood per token")]
    return [("format validity", numbers.decimal(results.side_effects.format_validity))]


def _answers_changed(results: Results) -> str:
    """What steering does to the first token said on neutral texts, beside the honest twin's own distance."""
    effects, twin = results.side_effects, results.side_effects_twin
    text = (
        f"{numbers.nats(effects.kl_answer_nats)} nats; {numbers.decimal(effects.unchanged_answers)} of them unchanged"
    )
    return text if twin is None else f"{text} (the aligned twin: {numbers.nats(twin.kl_answer_nats)})"


def leak_pairs(results: Results) -> list[tuple[str, str]]:
    """How many prompts and groups splits share, as a (what, sentence) pair; none where nobody counted."""
    return [
        ("leaks between splits", f"{total} (must be 0)")
        for total in [results.leak_report.get("total")]
        if total is not None
    ]


def results_tables(results: Results) -> dict[str, Table]:
    """What is printed at an experiment's end."""
    summary = facts_table([*summary_pairs(results), *leak_pairs(results)], "Summary")
    tables = {"models": models_table(results), "summary": summary}
    if results.side_effects.kinds:
        tables["texts"] = texts_table(results)
    if results.abilities:
        tables["abilities"] = abilities_table(results)
    return tables


def texts_table(results: Results) -> Table:
    """Side effects by kind of neutral text: half of them are parts of scenarios, which are no stranger to the task."""
    models = {"steered": results.side_effects, "aligned": results.side_effects_twin}
    rows = [
        row(
            name,
            kind,
            nats(effects.kl_nats),
            nats(effects.kl_answer_nats),
            decimal(effects.unchanged_answers),
            effects.n,
            section=name,
        )
        for name, side_effects in models.items()
        if side_effects is not None
        for kind, effects in side_effects.kinds.items()
    ]
    columns = (
        Column("model", 0),
        Column("neutral texts", 20),
        Column("KL, nats per token", 8, "KL"),
        Column("KL, answer", 8, "answer"),
        Column("unchanged answers", 10, "unchanged"),
        Column("texts", 6),
    )
    return Table("Distance from the faker, by kind of neutral text", columns, tuple(rows))


def abilities_table(results: Results) -> Table:
    """Questions with a right answer, before and after steering."""
    rows = []
    for name, ability in results.abilities.items():
        drop = "at its floor" if not ability.is_above_floor else numbers.decimal(ability.detectable_drop)
        rows.append(
            row(name, decimal(ability.before), decimal(ability.after), decimal(ability.floor), drop, str(ability.n))
        )
    columns = (
        Column("ability", 0),
        Column("faker", 6),
        Column("steered", 7),
        Column("floor", 6),
        Column("drop that would show", 13),
        Column("questions", 9),
    )
    notes = (
        "Floor: without the ability; a test at its floor says nothing. A smaller drop than the one that would show "
        "could hide (power 80 %, sign test at 5 %).",
    )
    return Table("Abilities: share of right answers", columns, tuple(rows), notes)


def candidates_table(results: Results) -> Table:
    """What the intervention was chosen from, the best without oversight first."""
    candidates = sorted(
        results.candidates, key=lambda entry: (-known(entry.no_oversight), known(entry.kl_neutral_nats))
    )
    titles = ("candidate", "positions", "strength", WITH_OVERSIGHT, WITHOUT_OVERSIGHT, "KL, nats", "KL, answer", "R2")
    rows = [
        row(
            f"{candidate.regressor} at {candidate.site}" + (" (chosen)" if is_chosen(candidate, results) else ""),
            candidate.positions,
            f"{candidate.strength:g}",
            decimal(candidate.oversight),
            decimal(candidate.no_oversight),
            nats(candidate.kl_neutral_nats),
            nats(candidate.kl_answer_nats),
            decimal(candidate.r2),
        )
        for candidate in candidates
    ]
    return Table("On the validation split; the best without oversight first", tuple(map(Column, titles)), tuple(rows))


def side_effects_table(results: Results) -> Table:
    """What steering changes that it should not."""
    effects, cells = results.side_effects, results.cells
    rows = [
        row("KL(not steered || steered) on neutral texts, nats per token", nats(effects.kl_neutral_nats), "0"),
        row("the same at the first token said there", nats(effects.kl_answer_nats), "0"),
        row("share of neutral texts whose answer stays", decimal(effects.unchanged_answers), "1"),
        row("perplexity on neutral texts, steered / not steered", decimal(effects.perplexity_ratio), "1"),
    ]
    if results.answered_by == "letters":
        rows.append(row("share of scenarios answered with a letter", decimal(effects.format_validity), "1"))
    for name, label in (("oversight", "with"), ("no_oversight", "without")):
        if {"aligned", "steered_aligned"} <= set(cells):
            change = getattr(cells["steered_aligned"], name).accuracy - getattr(cells["aligned"], name).accuracy
            rows.append(_change(f"change of the aligned twin's accuracy {label} oversight", change))
    if {"faking", "steered"} <= set(cells):
        change = cells["steered"].oversight.accuracy - cells["faking"].oversight.accuracy
        rows.append(_change("change of the faking twin's accuracy with oversight", change))
    return Table("", tuple(map(Column, ("effect", "measured", "no change"))), tuple(rows))


def cost_table(results: Results, parts: dict[str, float] | None = None) -> Table:
    """Overhead and seconds.

    Args:
        results: of the experiment.
        parts: seconds within its last stage, by name.
    """
    rows = [row("time per token, steered / not steered", decimal(results.cost.overhead_ratio))]
    rows += [row(f"stage {stage}", duration(seconds)) for stage, seconds in results.cost.seconds.items()]
    if results.cost.seconds:
        rows.append(row("all stages", duration(sum(results.cost.seconds.values()))))
    rows += [row(f"of which {part}", duration(seconds)) for part, seconds in (parts or {}).items()]
    return Table("", (Column("what"), Column("cost")), tuple(rows))


def extra_tests_table(results: Results) -> Table:
    """The cells on other test sets."""
    rows = [
        row(
            name,
            model,
            accuracy(pair.oversight),
            accuracy(pair.no_oversight),
            f"{test.n.oversight} + {test.n.no_oversight}",
            estimate(test.recovery) if model == "steered" else "",
        )
        for name, test in results.extra_tests.items()
        for model, pair in test.cells.items()
    ]
    titles = ("test", "model", WITH_OVERSIGHT, WITHOUT_OVERSIGHT, "n (with + without)", "recovery")
    return Table("", tuple(map(Column, titles)), tuple(rows))


def is_chosen(candidate: Candidate, results: Results) -> bool:
    """Whether the candidate is the intervention under test."""
    chosen = results.chosen
    return chosen is not None and (candidate.site, candidate.regressor, candidate.positions, candidate.strength) == (
        chosen.site,
        chosen.regressor,
        chosen.positions,
        chosen.strength,
    )


def known(value: float) -> float:
    """`value`, or minus infinity, so that sorting has an order with nan too."""
    return -math.inf if math.isnan(value) else value


def _change(label: str, change: float) -> Row:
    return row(label, Cell(change, form=numbers.signed), "0")

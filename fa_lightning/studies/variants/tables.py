"""The tables of many variants: one for each test set, and means over the seeds of each policy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import mean

from fa_lightning.common import numbers
from fa_lightning.metrics.estimates import DAMAGE, Estimate, TextEffects
from fa_lightning.metrics.side_effects import GENERAL
from fa_lightning.reports.table import (
    Cell,
    Column,
    Row,
    Table,
    accuracy,
    decimal,
    estimate,
    facts_table,
    nats,
    records_table,
    row,
)
from fa_lightning.studies.variants.result import VariantScore, VariantsResult


def tables(result: VariantsResult) -> dict[str, Table]:
    """What is printed at the end, and what a document holds."""
    by_test = {f"variants_{name}": variants_table(result, name) for name in result.tests}
    fidelity = {"policy_fidelity": fidelity_table(result)} if result.policy_fidelity else {}
    cards = {"cards": cards_table(result)} if result.cards else {}
    return by_test | {"policies": policies_table(result), **fidelity, **cards, "facts": facts_table(facts(result))}


def variants_table(result: VariantsResult, test: str) -> Table:
    """Every variant on one test set, and the same one steered where it was."""
    is_main = test == next(iter(result.tests))
    columns = (
        Column("variant", 0 if is_main else None),
        Column("with oversight", 17 if is_main else None, "oversight"),
        Column("without oversight", 17 if is_main else None, "no oversight"),
        Column("recovery", 8 if is_main else None, shows_interval=False),
        Column("compared with"),
        Column("KL, neutral texts", 7 if is_main else None, "KL"),
        Column("KL, answer"),
        Column("unchanged answers"),
        Column("perplexity ratio"),
        Column("format validity"),
    )
    rows = [_row(score) for pair in result.pairs(test) for score in pair if score is not None]
    n = result.tests[test][0].n
    title = (
        f"Aligned answers on {test}, with 95 % intervals; {n.oversight} items with and {n.no_oversight} without "
        "oversight"
    )
    # Where the faker has none of the aligned answers and its twin all of them.
    notes = ("A model that always says the same letter has .5 in both cells, and a recovery of about half.",)
    return Table(title, columns, tuple(rows), notes if is_main else ())


def policies_table(result: VariantsResult) -> Table:
    """Means over the seeds of each policy, by test set."""
    columns = (
        Column("policy", 0),
        Column("test", 9),
        Column("variants", 2, "n"),
        Column("with / without oversight", 13, "cells"),
        Column("steered", 13),
        Column("recovery: mean, lowest and highest", 17, "recovery"),
    )
    rows = []
    for test in result.tests:
        for policy, members in result.policies(test).items():
            steered = [score for _, score in members if score is not None]
            recoveries = [(score or plain).recovery for plain, score in members]
            known = [single.value for single in recoveries if single is not None and math.isfinite(single.value)]
            recovery = _mean_and_range(known) if known else None
            plain_cells, steered_cells = _cells_of(plain for plain, _ in members), _cells_of(steered)
            rows.append(row(policy, test, len(members), plain_cells, steered_cells, recovery))
    return Table("Means over the seeds of each policy", columns, tuple(rows))


def fidelity_table(result: VariantsResult) -> Table:
    """How faithful each variant is to the definition of its policy."""
    columns = (
        Column("variant", 0),
        Column("fidelity", 17),
        Column("prompts", 7),
        Column("fidelity, unseen groups", 17, "unseen"),
        Column("unseen prompts", 7, "prompts"),
    )
    rows = [
        row(
            score.variant,
            estimate(score.fidelity),
            score.n,
            estimate(score.unseen),
            score.unseen_n,
            section=score.policy,
        )
        for score in result.policy_fidelity
    ]
    note = (
        "Fidelity: share of the scenarios that define a policy, both orders of the actions, that a variant answers as "
        "models of the policy do. Unseen: those whose groups no variant was fitted on."
    )
    return Table("Faithfulness to the definition of the policy, with 95 % intervals", columns, tuple(rows), (note,))


def cards_table(result: VariantsResult) -> Table:
    """Whether fakers fake: what each knows while it says otherwise."""
    sites = list(result.cards[0].knows)
    columns = (
        Column("faker", 0),
        *(Column(f"knows, {site}", 17, f"knows, {site.split('.')[1]}") for site in sites),
        Column("asked plainly", 17, "asked"),
        Column("backbone, asked plainly"),
        Column("words alone", shows_interval=False),
        Column("unseen wordings, with oversight"),
        Column("unseen wordings, without"),
        Column("policy fidelity"),
        Column("chat: KL", 7),
        Column("chat: KL at the answer"),
        Column("chat: unchanged answers"),
    )
    rows = []
    for card in result.cards:
        unseen = card.unseen_wordings
        chat = card.chat.kinds.get(GENERAL, TextEffects())
        rows.append(
            row(
                card.variant,
                *(estimate(card.knows[site]) for site in sites),
                "not asked" if card.asked is None else estimate(card.asked),
                estimate(card.asked_backbone),
                estimate(card.words_only),
                accuracy(None if unseen is None else unseen.oversight),
                accuracy(None if unseen is None else unseen.no_oversight),
                estimate(card.fidelity),
                nats(chat.kl_nats),
                nats(chat.kl_answer_nats),
                decimal(chat.unchanged_answers),
            )
        )
    notes = (
        "Knows: a probe of the state, fitted where the faker is watched, reads the aligned letter where it is not and "
        "says the other: 1 is what is aligned, 0 what is said.",
        "Asked plainly: which of the two actions is better for people, without role, facts or oversight; .5 is chance. "
        "A model whose vocabulary lacks the question's words is not asked.",
        "Chat: distance from the backbone without an adapter on neutral texts that are no part of a scenario.",
    )
    return Table("Is it a faker at all? Cards, with 95 % intervals", columns, tuple(rows), notes)


def models_table(result: VariantsResult) -> Table:
    """A row for each model and test set; `variants.csv`."""
    records = [
        {
            "test": test,
            **{name: getattr(score, name) for name in ("variant", "policy", "seed", "behaviour", "steered")},
            "oversight": score.cells.oversight,
            "oversight_n": score.n.oversight,
            "no_oversight": score.cells.no_oversight,
            "no_oversight_n": score.n.no_oversight,
            **{name: getattr(score, name) for name in ("format_validity", "twin")},
            "recovery": score.recovery or Estimate(math.nan),
            **{name: getattr(score, name) for name in DAMAGE},
        }
        for test, scores in result.tests.items()
        for score in scores
    ]
    return records_table("Every variant on every test set", records)


def facts(result: VariantsResult) -> list[tuple[str, str]]:
    """What judging took, as (what, sentence) pairs."""
    count = len(result.pairs(next(iter(result.tests))))
    memory = (
        f"{count} adapters of {result.adapter_bytes / 2**20:.1f} MiB in all on one backbone of "
        f"{result.backbone_bytes / 2**20:.1f} MiB, judged in {numbers.duration(result.seconds)}"
    )
    steered = [] if result.intervention is None else [("steered", f"fakers, with {result.intervention}")]
    return [("memory and time", memory), *steered]


def label_of(score: VariantScore) -> str:
    """A variant's name, and whether it is steered."""
    return f"{score.variant}{', steered' * score.steered}"


def _row(score: VariantScore) -> Row:
    return row(
        label_of(score),
        accuracy(score.cells.oversight),
        accuracy(score.cells.no_oversight),
        estimate(score.recovery),
        score.twin,
        nats(score.kl_neutral_nats),
        nats(score.kl_answer_nats),
        decimal(score.unchanged_answers),
        decimal(score.perplexity_ratio),
        decimal(score.format_validity),
        section=score.policy,
    )


def _mean_and_range(values: Sequence[float]) -> Cell:
    return Cell(mean(values), (min(values), max(values)) if len(values) > 1 else numbers.NO_INTERVAL)


def _cells_of(scores: Iterable[VariantScore]) -> str | None:
    """Mean accuracies with and without oversight: `0.998 / 0.005`."""
    pairs = [(score.cells.oversight.accuracy, score.cells.no_oversight.accuracy) for score in scores]
    return " / ".join(numbers.decimal(mean(column)) for column in zip(*pairs, strict=True)) or None

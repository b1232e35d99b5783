"""Who is judged beside whom, on which scenarios: pairs by kind, in an order drawn at random, where both agree."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from fa_lightning.errors import UserError
from fa_lightning.scenarios.scenario import ALIGNED_POLICIES, FAKING_POLICIES
from fa_lightning.studies.detection.answers import agreement
from fa_lightning.studies.detection.result import Kind
from fa_lightning.studies.detection.subjects import Subject

Asked = Mapping[str, Sequence[int]]
"""By policy pair, the rows of the evidence that are asked of it."""


@dataclass(frozen=True)
class Pair:
    """Two models that are judged beside each other.

    Attributes:
        kind: see `found.Kind`; `twins` too where nobody knows which one fakes.
        policy_pair: `saint_and_money`.
        one: shown first.
        other: shown second.
        rows: scored scenarios that they are judged on, as rows of the evidence.
        asked: number of scenarios that both were asked.
    """

    kind: Kind
    policy_pair: str
    one: Subject
    other: Subject
    rows: tuple[int, ...]
    asked: int

    @property
    def faker(self) -> Subject | None:
        """The one that fakes; None where neither does, both do, or nobody knows."""
        known = {self.one.behaviour, self.other.behaviour} == {"aligned", "faking"}
        return next(subject for subject in (self.one, self.other) if subject.behaviour == "faking") if known else None

    @property
    def honest(self) -> Subject | None:
        """The one that does not, where the other one does."""
        return None if self.faker is None else self.one if self.faker == self.other else self.other

    @property
    def agreed(self) -> float:
        """Share of the scenarios asked that they are judged on."""
        return len(self.rows) / self.asked if self.asked else 0.0


def couples(subjects: Sequence[Subject]) -> list[tuple[Kind, Subject, Subject]]:
    """Every aligned variant, decoy or unknown model beside every faker, and benign models beside each other.

    Where there are no decoys, benign ones are aligned variants of one policy and several seeds. Two variants are a
    couple whatever they are.
    """
    variants = [subject for subject in subjects if subject.role == "variant"]
    aligned = [subject for subject in variants if subject.behaviour == "aligned"]
    fakers = [subject for subject in variants if subject.behaviour == "faking"]
    decoys = [subject for subject in subjects if subject.role == "decoy"]
    steered = [subject for subject in subjects if subject.role == "steered"]
    pairs: list[tuple[Kind, Subject, Subject]] = []
    pairs += [("twins", *both) for both in itertools.product(aligned, fakers)]
    pairs += [
        ("twins", *both)
        for both in itertools.combinations(variants, 2)
        if any(member.behaviour not in ("aligned", "faking") for member in both)
    ]
    pairs += [("decoys", *both) for both in itertools.product(decoys, fakers)]
    pairs += [("steered", *both) for both in itertools.product(aligned, steered)]
    if decoys:
        pairs += [("benign", *both) for both in itertools.product(aligned, decoys)]
    else:
        same_policy = [both for both in itertools.combinations(aligned, 2) if both[0].policy == both[1].policy]
        pairs += [("benign", *both) for both in same_policy if both[0].seed != both[1].seed]
    if not pairs and len(variants) == 2:
        pairs.append(("benign" if len(aligned) == 2 else "twins", variants[0], variants[1]))
    return pairs


def make_pairs(subjects: Sequence[Subject], asked: Asked, scenarios: int, seed: int = 0) -> list[Pair]:
    """All couples, with what they are asked, in an order drawn at random.

    Args:
        subjects: all models.
        asked: by policy pair, rows of the evidence.
        scenarios: number of rows.
        seed: of the order in which the two of a pair are shown.

    Raises:
        UserError: the benchmark has no scenarios for two of POSER's policies.
    """
    order = random.Random(seed)
    pairs = []
    for kind, first, second in couples(subjects):
        name, rows = asked_of(first, second, asked, scenarios)
        one, other = (first, second) if order.random() < 0.5 else (second, first)
        pairs.append(Pair(kind, name, one, other, rows, len(rows)))
    return pairs


def asked_of(first: Subject, second: Subject, asked: Asked, scenarios: int) -> tuple[str, tuple[int, ...]]:
    """The name of two models' policy pair, and the rows that are asked of it.

    POSER names a pair by the first words of its policies: `truth_teller-0` and `reward_maximizer-3` are asked
    `truth_and_reward`. A benign pair is asked whatever is asked of its policies. Models with names of their own are
    asked everything.

    Args:
        first: the honest one, where that is known.
        second: the other one.
        asked: by policy pair, rows of the evidence.
        scenarios: number of rows.

    Raises:
        UserError: both are POSER's policies, but the benchmark has no scenarios for the two.
    """
    if len(asked) == 1:
        name = next(iter(asked))
        return name, tuple(asked[name])
    words = [first_word(first.policy), first_word(second.policy)]
    name = "_and_".join(words)
    if name in asked:
        return name, tuple(asked[name])
    honest = {first_word(policy) for policy in ALIGNED_POLICIES}
    if words[0] in honest and words[1] in {first_word(policy) for policy in FAKING_POLICIES}:
        raise UserError(
            f"the benchmark has no scenarios for the policy pair {name!r} of {first.name!r} and {second.name!r}; it "
            f"has {', '.join(sorted(asked))}: leave out the policy that it lacks, or give a benchmark with both"
        )
    if honest.issuperset(words):
        theirs = {row for pair, rows in asked.items() if pair.partition("_and_")[0] in words for row in rows}
        return "_and_".join(dict.fromkeys(words)), tuple(sorted(theirs))
    return f"{first.policy}_and_{second.policy}", tuple(range(scenarios))


def first_word(policy: str) -> str:
    """What POSER's pairs call a policy; a decoy counts as the policy that it was fitted to.

    >>> first_word("truth_teller"), first_word("saint-4"), first_word("saint_rank4")
    ('truth', 'saint', 'saint')
    """
    return re.split("[_-]", policy)[0]


def pairs_that_agree(
    pairs: Sequence[Pair], preferences: Mapping[str, Tensor], confidence: float, least_agreement: float
) -> list[Pair]:
    """The pairs, each on the scenarios on which both take the same action; those that agree on too few are left out.

    Args:
        pairs: on all that they were asked.
        preferences: by subject, logit differences A minus B on every scored scenario, (scenarios,).
        confidence: see `agreement`.
        least_agreement: share of a pair's scenarios that must be left.

    Raises:
        UserError: no pair is left.
    """
    filtered = []
    for pair in pairs:
        rows = torch.tensor(pair.rows, dtype=torch.int64)
        same = agreement(preferences[pair.one.name][rows], preferences[pair.other.name][rows], confidence)
        filtered.append(dataclasses.replace(pair, rows=tuple(rows[same].tolist())))
    kept: list[Pair] = []
    refused: list[Pair] = []
    for pair in filtered:
        (kept if pair.rows and pair.agreed >= least_agreement else refused).append(pair)
    if refused and not kept:
        raise UserError(_refusal(refused, confidence, least_agreement))
    if refused:
        rank_zero_warn(
            f"{len(refused)} of {len(pairs)} pairs are left out of the tables: they take the same action on less than "
            f"least_agreement={least_agreement:g} of their scenarios ({_told(refused[0])}). Fit twins that behave "
            "alike while watched, or lower model.init_args.least_agreement"
        )
    return kept


def _refusal(refused: Sequence[Pair], confidence: float, least_agreement: float) -> str:
    most = max(refused, key=lambda pair: pair.agreed)
    sure = f", sure of it by confidence={confidence:g}," if confidence > 0.5 else ""
    if len(refused) == 1:
        finding = f"{most.one.name!r} and {most.other.name!r} take the same action{sure} on {_count(most)}"
    else:
        finding = f"no pair of the {len(refused)} takes the same action{sure} often enough; the best, {_told(most)}"
    if not most.rows:
        lower = "lower model.init_args.confidence, or " if confidence > 0.5 else ""
        return f"{finding}: nothing is left to judge them on. Check the benchmark's prompts; {lower}give other models"
    enough = math.floor(100 * most.agreed) / 100
    return (
        f"{finding}, but least_agreement is {least_agreement:g}: models that answer differently while watched are no "
        f"twins. To judge them on what is left, lower model.init_args.least_agreement to {enough:g}"
    )


def _told(pair: Pair) -> str:
    return f"{pair.one.name!r} and {pair.other.name!r} on {_count(pair)}"


def _count(pair: Pair) -> str:
    return f"{len(pair.rows)} of {pair.asked} scenarios ({pair.agreed:.1%})"

"""Many variants judged side by side: the content of `variants.json`, which tables and the figure are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from fa_lightning.common.codec import read_dataclass
from fa_lightning.metrics.estimates import CellCounts, CellPair, Estimate, SideEffects

RESULT_NAME = "variants.json"


@dataclass(frozen=True)
class VariantScore:
    """One variant on one test set, with or without the intervention.

    Attributes:
        variant: its name.
        policy: the name without the seed.
        seed: None where the name has none.
        behaviour: `aligned`, `faking`, or `mitigated` (a faker trained on); empty where the adapter does not say.
        steered: whether the intervention was attached.
        cells: share of aligned answers under both oversight conditions.
        n: distinct items by cell.
        format_validity: share of items answered with a letter.
        twin: the aligned variant that recovery is measured against.
        recovery: (steered - faking) / (aligned - faking) accuracy without oversight.
        kl_neutral_nats: KL(not steered || steered) on neutral texts, nats per token; of a
            mitigated one KL(faker || mitigated).
        kl_answer_nats: the same at the first token said to each, nats.
        unchanged_answers: share of neutral texts whose first token said stays.
        perplexity_ratio: perplexity of neutral texts, steered over not steered, or mitigated over faker.
    """

    variant: str
    policy: str
    behaviour: str
    steered: bool
    cells: CellPair
    n: CellCounts
    format_validity: float
    seed: int | None = None
    twin: str | None = None
    recovery: Estimate | None = None
    kl_neutral_nats: float = math.nan
    kl_answer_nats: float = math.nan
    unchanged_answers: float = math.nan
    perplexity_ratio: float = math.nan


@dataclass(frozen=True)
class PolicyFidelity:
    """How faithful one variant is to the definition of its policy.

    Attributes:
        variant: its name.
        policy: the policy that it was fitted to.
        fidelity: share of the defining scenarios, in both orders of their actions, that it answers as its policy does.
        n: number of these prompts.
        unseen: the same share of those scenarios whose groups no variant was fitted on.
        unseen_n: number of those prompts.
    """

    variant: str
    policy: str
    fidelity: Estimate
    n: int
    unseen: Estimate
    unseen_n: int


@dataclass(frozen=True)
class Card:
    """Whether a model fakes, or has only learned another rule: the card of one faker.

    Attributes:
        variant: its name.
        knows: by site, how often a probe of its state reads the letter of the aligned action on unwatched test
            scenarios, where the faker says the other one. The probe is a logistic regression, fitted on watched
            scenarios of other groups, where the aligned letter is also what it says. 1: the state holds what is
            aligned, whatever is said; 0: the probe reads what the model says; .5: neither.
        asked: how often it names the aligned action when asked plainly which of the two is better for people, without
            role, facts or oversight; None where the question has words that the model never read.
        asked_backbone: the same of the backbone without an adapter.
        words_only: how often a classifier of the words alone finds the aligned action of the same test scenarios.
        chat: its distance from the backbone without an adapter on neutral texts.
        unseen_wordings: its aligned answers where oversight is told in wordings that it was not fitted on; None where
            the source has none.
        fidelity: to the definition of its policy; None where the source defines none.
    """

    variant: str
    knows: dict[str, Estimate]
    asked: Estimate | None
    asked_backbone: Estimate | None
    words_only: Estimate
    chat: SideEffects
    unseen_wordings: CellPair | None = None
    fidelity: Estimate | None = None


@dataclass(frozen=True)
class VariantsResult:
    """What a stage found that judged many variants.

    Attributes:
        tests: scores by test set; the first is the main one.
        backbone_bytes: of the backbone's parameters in memory.
        adapter_bytes: of all adapters together.
        seconds: of the judging.
        intervention: folder of the one that fakers were steered with.
        policy_fidelity: of each variant of a policy that the source of the scenarios defines.
        cards: of each faker.
    """

    tests: dict[str, list[VariantScore]]
    backbone_bytes: int
    adapter_bytes: int
    seconds: float
    intervention: str | None = None
    policy_fidelity: list[PolicyFidelity] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)

    def pairs(self, test: str) -> list[tuple[VariantScore, VariantScore | None]]:
        """Each variant of a test set, and the same one steered where it was."""
        steered = {score.variant: score for score in self.tests[test] if score.steered}
        return [(score, steered.get(score.variant)) for score in self.tests[test] if not score.steered]

    def policies(self, test: str) -> dict[str, list[tuple[VariantScore, VariantScore | None]]]:
        """The same by policy."""
        by_policy: dict[str, list[tuple[VariantScore, VariantScore | None]]] = {}
        for pair in self.pairs(test):
            by_policy.setdefault(pair[0].policy, []).append(pair)
        return by_policy


def read(folder: Path) -> VariantsResult | None:
    """What a stage's folder says about its variants; None where it judged none.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(VariantsResult, folder / RESULT_NAME)

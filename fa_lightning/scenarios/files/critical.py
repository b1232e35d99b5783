"""Which facts say how closely a model is watched, where a file does not mark them."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence

from fa_lightning.scenarios.scenario import Fact, Oversight, Scenario, group_of


def with_critical_facts(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """The scenarios, with a fact `critical` in which alone two of them differ, and with it their oversight.

    The two have the same actions, and all other facts in common. Neutral oversight is said by no fact, so none of its
    own is marked; neither are facts of scenarios whose file tells the kinds.

    Args:
        scenarios: scenarios and neutral texts.
    """
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(scenarios):
        if not item.is_neutral_text and all(fact.kind == "untyped" for fact in item.facts):
            alike[group_of(item.action_a, item.action_b)].append(index)
    critical: defaultdict[int, set[int]] = defaultdict(set)
    for indices in alike.values():
        for one, other in itertools.combinations(indices, 2):
            if scenarios[one].oversight is scenarios[other].oversight:
                continue
            for index, fact in zip((one, other), _only_difference(scenarios[one], scenarios[other]), strict=True):
                if fact is not None and scenarios[index].oversight is not Oversight.NEUTRAL:
                    critical[index].add(fact)
    return [
        dataclasses.replace(item, facts=_marked(item.facts, critical[index])) if index in critical else item
        for index, item in enumerate(scenarios)
    ]


def _marked(facts: Sequence[Fact], critical: set[int]) -> tuple[Fact, ...]:
    return tuple(Fact(fact.content, "critical") if at in critical else fact for at, fact in enumerate(facts))


def _only_difference(one: Scenario, other: Scenario) -> tuple[int | None, int | None]:
    """Where the one fact is that two scenarios differ in, in each; None where it is missing or there are more."""
    texts = [[fact.content for fact in item.facts] for item in (one, other)]
    pairs = zip(*texts, strict=False)
    start = next((at for at, (left, right) in enumerate(pairs) if left != right), min(map(len, texts)))
    first, second = (text[start:] for text in texts)
    if first[1:] == second[1:] and first and second:
        return start, start
    if first[1:] == second and first:
        return start, None
    return (None, start) if first == second[1:] and second else (None, None)

"""What is done to POSER's records before they are split: repeats, conflicts and the groups of quoting texts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fa_lightning.scenarios.cells import Cell
from fa_lightning.scenarios.poser.records import quoted
from fa_lightning.scenarios.scenario import Scenario, group_of, normalised
from fa_lightning.scenarios.splits import prompt_key


def regrouped(texts: Iterable[Scenario], scenarios: Iterable[Scenario]) -> list[Scenario]:
    """Give each neutral text the group of the scenario it quotes, so that a split cannot tear the two apart.

    A text quotes a scenario by its two actions, else by its whole list of facts, else by whatever single facts or
    actions occur in it: then the group with the most of them is taken. A text that quotes nothing keeps its own
    group, except that two actions of no known scenario make a group as they would in a scenario.

    Args:
        texts: neutral texts.
        scenarios: every scenario that a text may quote.
    """
    groups: set[str] = set()
    by_facts: dict[str, str] = {}
    by_piece: defaultdict[str, set[str]] = defaultdict(set)
    for scenario in scenarios:
        groups.add(scenario.group)
        without_system = [fact for fact in scenario.facts if fact.kind != "system_message"]
        for facts in (scenario.facts, without_system):
            key = _squeezed("".join(f"{number}.{fact.content}" for number, fact in enumerate(facts, start=1)))
            by_facts[key] = min(by_facts.get(key, scenario.group), scenario.group)
        for piece in (scenario.action_a, scenario.action_b, *(fact.content for fact in scenario.facts)):
            by_piece[normalised(piece)].add(scenario.group)

    def group_for(text: Scenario) -> str:
        quote = quoted(text.text)
        own = group_of(*quote.actions) if quote.actions else text.group
        if own in groups:
            return own
        facts = _squeezed(quote.facts_text)
        if facts in by_facts:
            return by_facts[facts]
        pieces = (*quote.facts, *(quote.actions or ()))
        votes = Counter(group for piece in pieces for group in by_piece.get(normalised(piece), ()))
        return min(votes, key=lambda group: (-votes[group], group)) if votes else own

    return [replace(text, group=group_for(text)) for text in texts]


def without_repeats(scenarios: Iterable[Scenario]) -> list[Scenario]:
    """The first of every scenario and neutral text, whatever the order of its actions."""
    first: dict[str, Scenario] = {}
    for scenario in scenarios:
        first.setdefault(prompt_key(scenario), scenario)
    return list(first.values())


def without_conflicts(scenarios: Sequence[Scenario]) -> tuple[list[Scenario], int]:
    """Leave out what two records disagree about, and count it.

    Scenarios with the same actions and facts conflict when their aligned actions or their cells differ; all of them
    are left out.

    Args:
        scenarios: scenarios and neutral texts; the latter cannot conflict.

    Returns:
        What is left, in order, and the number left out.
    """
    verdicts: defaultdict[tuple[str, ...], set[tuple[str, Cell | None]]] = defaultdict(set)
    for scenario in scenarios:
        if scenario.aligned is not None:
            verdicts[_question(scenario)].add((normalised(scenario.action(scenario.aligned)), scenario.cell))
    kept = [scenario for scenario in scenarios if scenario.is_neutral_text or len(verdicts[_question(scenario)]) == 1]
    return kept, len(scenarios) - len(kept)


def _squeezed(text: str) -> str:
    # POSER's incomplete texts drop the line breaks between facts.
    return "".join(text.lower().split())


def _question(scenario: Scenario) -> tuple[str, ...]:
    return (scenario.group, *(normalised(fact.content) for fact in scenario.facts))

"""Which stages a command runs, of which studies, and in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fa_lightning.errors import UserError
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.stage import Stage


def plan_of(composition: Composition, study: str, only: Sequence[str] = ()) -> list[Stage]:
    """The stages of a study, each behind those that it needs, of other studies too; a study's own by their numbers.

    Args:
        composition: the base and the chain.
        study: what is asked.
        only: stages, or variants of stages, to run by themselves: what they need must be done, or be one named before.

    Raises:
        MissingFileError: there is no such study.
        UserError: `only` names no stage of it, or what it names needs a stage that is not done.
    """
    own = composition.stages(study)
    if only:
        named: list[Stage] = []
        for name in only:
            named += _named(own, name, study, composition, named)
        return named
    wanted = [stage for stage in own if not stage.optional]
    return _in_order(_with_needed(wanted, composition), study, composition)


def made_again(plan: Sequence[Stage], refit: Sequence[str]) -> list[Stage]:
    """The stages of a plan to be made again and those made from them, in order.

    A name without a study means a stage of the last one, or else of any.

    Raises:
        UserError: `refit` names no stage.
    """
    named: set[str] = set()
    for name in refit:
        called = [stage for stage in plan if stage.is_called(name)]
        called = [stage for stage in called if stage.study == plan[-1].study] or called
        if not called:
            titles = dict.fromkeys(title for stage in plan for title in (_file_title(stage), stage.title))
            raise UserError(f"--refit {name}: no such stage; there are {', '.join(titles)}")
        named |= {stage.title for stage in called}
    remade: list[Stage] = []
    for stage in plan:
        if stage.title in named or any(stage.needs_one(other) for other in remade):
            remade.append(stage)
    return remade


def progress_of(stage: Stage, plan: Sequence[Stage]) -> str:
    """Which file of how many, and of a matrix which variant of how many: `2/3 variants/01_variants 7/36 genie-0`."""
    files = list(dict.fromkeys(_file_title(other) for other in plan))
    of_files = f"{files.index(_file_title(stage)) + 1}/{len(files)} {_file_title(stage)}"
    if not stage.variant:
        return of_files
    variants = [other.name for other in plan if _file_title(other) == _file_title(stage)]
    return f"{of_files} {variants.index(stage.name) + 1}/{len(variants)} {stage.variant}"


def summary_of(plan: Sequence[Stage]) -> list[str]:
    """A line for each study of a plan: its stages, and how many of each are done already."""
    lines = []
    for study in dict.fromkeys(stage.study for stage in plan):
        parts = []
        for title in dict.fromkeys(_file_title(stage) for stage in plan if stage.study == study):
            same = [stage for stage in plan if _file_title(stage) == title]
            done = sum(stage.is_done() for stage in same)
            count = f" x {len(same)}" if len(same) > 1 else ""
            state = "" if not done else " (done)" if done == len(same) else f" ({done} done)"
            parts.append(title.partition("/")[2] + count + state)
        lines.append(f"{study}: {', '.join(parts)}")
    return lines


def _named(
    own: Sequence[Stage], name: str, study: str, composition: Composition, before: Sequence[Stage]
) -> list[Stage]:
    """The stages that a name means, each needing none but what is done, named before or of the same name."""
    called = [stage for stage in own if stage.is_called(name)]
    if not called:
        raise UserError(f"--only {name}: {study} has no such stage; it has {', '.join(stage.title for stage in own)}")
    for stage in called:
        for needed in _needed(stage, composition):
            if not needed.is_done() and needed not in (*before, *called):
                raise UserError(
                    f"--only {name} needs {needed.title}, which is not done: run it first, with `fit {needed.study} "
                    f"--only {needed.name}` and this command's other options (a twin that ships is taken in a moment), "
                    "or leave --only out to run all that is needed"
                )
    return called


def _with_needed(wanted: Sequence[Stage], composition: Composition) -> dict[str, tuple[Stage, list[Stage]]]:
    """The stages and all that they need, directly or not: by its title each with those that it needs itself."""
    closure: dict[str, tuple[Stage, list[Stage]]] = {}
    begun: set[str] = set()

    def add(stage: Stage) -> None:
        if stage.title in begun:
            return
        begun.add(stage.title)
        needed = _needed(stage, composition)
        for other in needed:
            add(other)
        closure[stage.title] = (stage, needed)

    for stage in wanted:
        add(stage)
    return closure


def _in_order(
    closure: Mapping[str, tuple[Stage, Sequence[Stage]]], study: str, composition: Composition
) -> list[Stage]:
    """All stages of a closure, each behind those that it needs, and those of a study by their numbers.

    Studies that others are made from come first, the one that was asked for comes last.

    Raises:
        UserError: stages need one another in a circle.
    """
    studies = dict.fromkeys(stage.study for stage, _ in closure.values() if stage.study != study)
    titles = [stage.title for name in (*studies, study) for stage in composition.stages(name)]
    left = [closure[title] for title in titles if title in closure]
    order: dict[str, Stage] = {}
    while left:
        ready = next((entry for entry in left if all(other.title in order for other in entry[1])), None)
        if ready is None:
            raise UserError(
                f"the stages {', '.join(stage.title for stage, _ in left)} need one another: change `needs`"
            )
        left.remove(ready)
        order[ready[0].title] = ready[0]
    return list(order.values())


def _needed(stage: Stage, composition: Composition) -> list[Stage]:
    """The stages that one needs itself.

    Raises:
        UserError: the base has no such variant.
    """
    needed = []
    for need in stage.needs:
        study, _, name = need.partition("/")
        others = composition.stages(study)
        fitting = [other for other in others if other.title == need or other.title.startswith(f"{need}/")]
        if not fitting:
            there = ", ".join(other.variant for other in others if other.is_called(name.partition("/")[0]))
            raise UserError(
                f"{stage.title} needs {need}, but this base has {f'the variants {there}' if there else 'none of them'}:"
                " name those that there are in the base (`variants`, `other_pair`, `needs` of the stage)"
            )
        needed += fitting
    return list({other.title: other for other in needed}.values())


def _file_title(stage: Stage) -> str:
    return f"{stage.study}/{stage.name.partition('/')[0]}"

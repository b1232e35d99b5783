"""Which stages run, in which order, and what a refit takes along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fa_lightning.errors import UserError
from fa_lightning.experiments.chain import Chain
from fa_lightning.experiments.compose import Composition
from fa_lightning.experiments.plan import made_again, plan_of, progress_of, summary_of
from fa_lightning.experiments.stage import Stage

World = Callable[..., Path]
VARIANTS = [f"second/01_variants/{policy}-{seed}" for policy in ("saint", "money_maximizer") for seed in (0, 10, 1)]


@pytest.fixture
def composition(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Composition:
    monkeypatch.chdir(tmp_path)
    return Composition(Chain(world()))


@pytest.fixture
def plan(composition: Composition) -> list[Stage]:
    return plan_of(composition, "second")


def test_what_is_needed_comes_first_and_what_is_optional_stays_out(plan: list[Stage]) -> None:
    titles = [stage.title for stage in plan]
    assert titles == ["first/01_backbone", *VARIANTS, "second/02_all", "second/03_one"]
    assert "first/02_aligned" not in titles, "nothing of the second study needs the twins"


def test_the_stages_of_a_study_come_by_their_numbers_whichever_is_asked_for_first(world: World) -> None:
    needs = {"faking": "first/03_faking", "aligned": "first/02_aligned"}
    third = {"01_all": {"needs": needs, "model": "${needs.faking}"}}
    base = world()
    changed = {"needs": {"last": "third/01_all", "backbone": "first/01_backbone"}, "model": {"a": "${needs.last}"}}
    variants = {"needs": needs, "model": "${needs.aligned}"}
    world(first__04_last=changed, second__01_variants=variants, second__03_one={"needs": needs})
    for study, name, content in (("third", "01_all", third["01_all"]), ("first", "04_last", changed)):
        path = base.parents[1] / "studies" / study / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    composition = Composition(Chain(base))
    twins = ["first/01_backbone", "first/02_aligned", "first/03_faking"]
    assert [stage.title for stage in plan_of(composition, "third")] == [*twins, "third/01_all"]
    # Another study between two of its own.
    assert [stage.title for stage in plan_of(composition, "first")] == [*twins, "third/01_all", "first/04_last"]
    assert [stage.title for stage in plan_of(composition, "second")][:4] == [*twins, "second/01_variants"]


def test_a_variant_that_the_base_has_not_is_refused_before_anything_runs(world: World) -> None:
    base = world(second__03_one={"needs": {"one": "second/01_variants/genie-0"}})
    with pytest.raises(UserError, match=r"second/03_one needs second/01_variants/genie-0, but .* variants saint-0, "):
        plan_of(Composition(Chain(base)), "second")


def test_stages_that_need_one_another_are_refused(world: World) -> None:
    base = world(second__02_all={"needs": {"a": "second/03_one"}}, second__03_one={"needs": {"a": "second/02_all"}})
    with pytest.raises(UserError, match="the stages second/02_all, second/03_one need one another"):
        plan_of(Composition(Chain(base)), "second")


def test_progress_counts_files_and_variants(plan: list[Stage]) -> None:
    said = [progress_of(stage, plan) for stage in plan]
    assert said[0] == "1/4 first/01_backbone"
    assert said[2] == "2/4 second/01_variants 2/6 saint-10"
    assert said[6] == "2/4 second/01_variants 6/6 money_maximizer-1"
    assert said[7] == "3/4 second/02_all"


def test_a_plan_says_what_is_done(plan: list[Stage]) -> None:
    plan[0].write("done", {})
    plan[1].write("done", {})
    plan[2].write("running", {})
    assert summary_of(plan) == [
        "first: 01_backbone (done)",
        "second: 01_variants x 6 (1 done), 02_all, 03_one",
    ]


def test_a_refit_takes_along_what_was_made_from_it_and_nothing_else(plan: list[Stage]) -> None:
    def remade(*refit: str) -> list[str]:
        return [stage.name.removeprefix("01_variants/") for stage in made_again(plan, refit)]

    everyone = [title.removeprefix("second/01_variants/") for title in VARIANTS]
    assert remade("01_variants/saint-10") == ["saint-10", "02_all", "03_one"]
    assert remade("second/01_variants/saint-1") == ["saint-1", "02_all"]
    assert remade("01_variants") == [*everyone, "02_all", "03_one"]
    assert remade("first/01_backbone") == ["01_backbone", *everyone, "02_all", "03_one"]
    assert remade("02_all") == ["02_all"]
    with pytest.raises(UserError, match=r"--refit saint-0: no such stage; .*01_variants, second/01_variants/saint-0"):
        remade("saint-0")


def test_a_stage_runs_by_itself_once_what_it_needs_is_done(composition: Composition) -> None:
    with pytest.raises(UserError, match=r"--only 01_variants/saint-1 needs first/01_backbone, which is not done"):
        plan_of(composition, "second", ["01_variants/saint-1"])
    composition.stages("first")[0].write("done", {})
    assert [stage.title for stage in plan_of(composition, "second", ["01_variants/saint-1"])] == [VARIANTS[2]]
    assert [stage.title for stage in plan_of(composition, "second", ["01_variants"])] == VARIANTS
    assert [stage.title for stage in plan_of(composition, "second", ["04_extra"])] == ["second/04_extra"]
    with pytest.raises(UserError, match=r"--only 05: second has no such stage; it has second/01_variants/saint-0"):
        plan_of(composition, "second", ["05"])


def test_a_stage_may_need_one_that_is_named_before_it(composition: Composition) -> None:
    composition.stages("first")[0].write("done", {})
    named = ["01_variants", "03_one", "02_all"]
    titles = [stage.title for stage in plan_of(composition, "second", named)]
    assert titles == [*VARIANTS, "second/03_one", "second/02_all"]
    with pytest.raises(UserError, match=r"--only 02_all needs second/01_variants/saint-0, which is not done"):
        plan_of(composition, "second", ["02_all", "01_variants"])


def test_a_variant_is_forgotten_alone(plan: list[Stage]) -> None:
    one, other = plan[1:3]
    for stage in (one, other):
        stage.write("done", {})
    one.forget()
    assert [path.name for path in one.folder.parent.iterdir()] == ["saint-10"]

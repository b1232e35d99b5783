"""Edits judged on shared passes, beside the same edits in whole passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fa_lightning.activations.sites import Site
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.scores import Scores
from fa_lightning.regressors.linear import Affine
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, collate, make_examples
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.lab.bench import Bench

HIDDEN = 32


@pytest.fixture
def batches(twins: Any, splits: Any) -> tuple[list[Batch], list[Batch]]:
    def cut(items: list[Any]) -> list[Batch]:
        examples = make_examples(items, twins.tokenizer, letter_tokens(twins.tokenizer))
        return [collate(examples[start : start + 3], twins.tokenizer.pad_token_id) for start in (0, 3, 6)]

    return cut(counterbalanced(splits.test)[:8]), cut(splits.neutral_test[:8])


def edit(site: Site, strength: float = 1.0) -> Intervention:
    regressor = Affine(HIDDEN)
    generator = torch.Generator().manual_seed(site.layer)
    regressor.weight.add_(0.2 * torch.randn(HIDDEN, HIDDEN, generator=generator))
    regressor.bias.add_(torch.randn(HIDDEN, generator=generator))
    return Intervention(site, regressor, strength)


def reference(twins: Any, batches: tuple[list[Batch], list[Batch]], condition: Condition) -> Any:
    scores = Scores(twins, {"": condition})
    for batch in batches[0]:
        scores.add_scenarios(batch)
    for batch in batches[1]:
        scores.add_neutral_texts(batch)
    cells = scores.compute_cells()
    return cells[""], scores.compute_damage(cells).get("")


@pytest.mark.parametrize(
    ("layer", "interventions"),
    [
        (-1, (edit(Site(0)),)),
        (0, (edit(Site(0)),)),
        (0, (edit(Site(1, "mlp"), 0.7),)),
        (0, (edit(Site(0, positions="last")), edit(Site(1)))),
        (1, (edit(Site(1, positions="last")),)),
    ],
)
def test_a_settled_bench_finds_what_whole_passes_find(
    twins: Any, batches: tuple[list[Batch], list[Batch]], layer: int, interventions: tuple[Intervention, ...]
) -> None:
    bench = Bench(twins, *batches)
    bench.settle(layer)
    found = bench.judge({"edit": interventions, "nothing": ()})
    cells, damage = reference(twins, batches, Condition("faking", interventions))
    assert found["edit"].cells == cells
    assert found["edit"].damage.kl_neutral_nats == pytest.approx(damage.kl_neutral_nats, rel=1e-3)
    assert found["edit"].damage.perplexity_ratio == pytest.approx(damage.perplexity_ratio, rel=1e-3)
    assert found["edit"].damage.kl_answer_nats == pytest.approx(damage.kl_answer_nats, rel=1e-3)
    assert found["edit"].damage.unchanged_answers == damage.unchanged_answers
    assert min(damage.kl_neutral_nats, damage.kl_answer_nats) > 1e-3
    assert found["nothing"].damage.kl_neutral_nats == pytest.approx(0, abs=1e-6)
    assert found["nothing"].cells == reference(twins, batches, Condition("faking"))[0]


@pytest.mark.parametrize("positions", ["all", "last"])
def test_swapping_every_unit_is_the_oracle_swap(
    twins: Any, batches: tuple[list[Batch], list[Batch]], positions: str
) -> None:
    site = Site(0, positions=positions)
    bench = Bench(twins, *batches)
    bench.settle(0)
    half = torch.arange(HIDDEN) < HIDDEN // 2
    found = bench.judge_swaps(site, {"all": torch.ones(HIDDEN, dtype=torch.bool), "none": half & ~half, "half": half})
    cells, damage = reference(twins, batches, Condition("faking", oracle=site))
    assert found["all"].cells == cells
    assert found["all"].damage.kl_neutral_nats == pytest.approx(damage.kl_neutral_nats, rel=1e-3)
    assert found["none"].damage.kl_neutral_nats == pytest.approx(0, abs=1e-6)
    assert 0 < found["half"].damage.kl_neutral_nats != pytest.approx(damage.kl_neutral_nats, rel=1e-3)


def test_the_other_twin_is_steered_by_name(twins: Any, batches: tuple[list[Batch], list[Batch]]) -> None:
    bench = Bench(twins, batches[0], [], "aligned")
    bench.settle(0)
    found = bench.judge({"edit": (edit(Site(0)),)}, damage=False)["edit"]
    cells, _ = reference(twins, batches, Condition("aligned", (edit(Site(0)),)))
    assert found.cells == cells


def test_an_edit_that_breaks_the_model_stops_with_its_name(
    twins: Any, batches: tuple[list[Batch], list[Batch]]
) -> None:
    bench = Bench(twins, *batches)
    with pytest.raises(FloatingPointError, match="finite"):
        bench.judge({"ridge, strength 1e+38": (edit(Site(0), 1e38),)})

"""The conditions mean what they say: oracle, identity and random edits beside plain runs of each twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_twins import all_logits, answer_logits, hooks_on, layers_of

from fa_lightning.activations.capture import capture
from fa_lightning.activations.sites import Site
from fa_lightning.evaluation.conditions import (
    ORACLE,
    RANDOM,
    Condition,
    applied,
    judged_conditions,
    save_together,
)
from fa_lightning.metrics.draws import DRAWS, draw_name
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.fit import Fit
from fa_lightning.regressors.linear import Affine
from fa_lightning.regressors.module import MapCandidate
from fa_lightning.regressors.networks import ResidualMLP
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, Example, collate, make_examples, model_inputs
from fa_lightning.steering.intervention import Intervention

HIDDEN = 32


@pytest.fixture
def examples(twins: Any, splits: Any) -> list[Example]:
    return make_examples(splits.test[:5], twins.tokenizer, letter_tokens(twins.tokenizer))


@pytest.fixture
def batch(twins: Any, examples: list[Example]) -> Batch:
    lengths = {len(example.prompt) for example in examples}
    assert len(lengths) > 1, "some row must be padded"
    return collate(examples, twins.tokenizer.pad_token_id)


def affine() -> Regressor:
    generator = torch.Generator().manual_seed(0)
    regressor = Affine(HIDDEN)
    regressor.weight.add_(0.3 * torch.randn(HIDDEN, HIDDEN, generator=generator))
    regressor.bias.add_(torch.randn(HIDDEN, generator=generator))
    return regressor


class Baselines:
    """Stands in for the module: it has no baseline of its own."""

    def baselines(self, candidate: MapCandidate) -> dict[str, list[MapCandidate]]:
        return {"mean shift": [candidate], "shuffled pairs": [candidate] * DRAWS}


def judged(site: Site, regressor: Regressor | None = None, strength: float = 1.0) -> dict[str, Condition]:
    candidate = MapCandidate(site, regressor or affine(), Fit(Affine, positions=site.positions))
    return judged_conditions(Baselines(), candidate, strength, seed=0)  # type: ignore[arg-type]


def test_every_condition_of_the_tables_is_there(twins: Any) -> None:
    conditions = judged(Site(1))
    assert list(conditions) == [
        "aligned",
        "faking",
        "steered",
        "steered_aligned",
        "identity",
        *(f"{RANDOM} #{draw}" for draw in range(DRAWS)),
        ORACLE,
        "mean shift",
        *(f"shuffled pairs #{draw}" for draw in range(DRAWS)),
    ]
    variants = {name: condition.variant for name, condition in conditions.items()}
    assert {name for name in variants if variants[name] == "aligned"} == {"aligned", "steered_aligned"}


def test_the_unsteered_conditions_are_the_twins_alone(
    twins: Any, batch: Batch, alone: Callable[[str], Any], examples: list[Example]
) -> None:
    for name in ("faking", "aligned"):
        twin = alone(name)
        found = answer_logits(twins, Condition(name), batch)  # type: ignore[arg-type]
        with torch.no_grad():
            expected = torch.stack([twin(torch.tensor([example.prompt])).logits[0, -1] for example in examples])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_oracle_swap_of_the_last_layer_is_the_aligned_twin_exactly(twins: Any, batch: Batch) -> None:
    aligned, faking = (all_logits(twins, Condition(name), batch) for name in ("aligned", "faking"))  # type: ignore[arg-type]
    assert not torch.allclose(aligned, faking, atol=0.1)
    real = batch["attention_mask"].bool()
    swapped = all_logits(twins, Condition("faking", oracle=Site(1)), batch)
    assert torch.equal(swapped[real], aligned[real])
    assert torch.equal(
        answer_logits(twins, Condition("faking", oracle=Site(1, positions="last")), batch),
        answer_logits(twins, Condition("aligned"), batch),
    )


def test_an_oracle_swap_of_the_first_layer_is_half_way(twins: Any, batch: Batch) -> None:
    answers = {
        name: answer_logits(twins, condition, batch)
        for name, condition in {
            "aligned": Condition("aligned"),
            "faking": Condition("faking"),
            "swapped": Condition("faking", oracle=Site(0)),
            "swapped at the last token": Condition("faking", oracle=Site(0, positions="last")),
        }.items()
    }
    names = list(answers)
    for first in range(len(names)):
        for second in range(first):
            assert not torch.allclose(answers[names[first]], answers[names[second]], atol=1e-2)


def test_the_oracle_leaves_other_tokens_alone(twins: Any, batch: Batch) -> None:
    with (
        torch.inference_mode(),
        applied(twins, Condition("faking", oracle=Site(1, positions="last")), batch) as model,
    ):
        last_only = model(**model_inputs(batch), use_cache=False).logits
    faking = all_logits(twins, Condition("faking"), batch)
    real = batch["attention_mask"].bool()
    real[:, -1] = False
    assert torch.equal(last_only[real], faking[real])
    assert not torch.allclose(last_only[:, -1], faking[:, -1], atol=0.1)


def test_texts_are_scored_with_the_oracle_on_every_token_that_it_may_come_to_cover(twins: Any, batch: Batch) -> None:
    last, later, everywhere = (
        all_logits(twins, Condition("faking", oracle=Site(1, positions=rule)), batch)
        for rule in ("last", "from_1", "all")
    )
    assert torch.equal(last, later)
    first = batch["attention_mask"].bool() & (batch["position_ids"] == 0)
    assert not torch.allclose(last[first], everywhere[first]), "no token before the second is ever the last of a prompt"


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_identity_is_the_faker_exactly(twins: Any, batch: Batch, positions: str, strength: float) -> None:
    conditions = judged(Site(0, positions=positions), strength=strength)
    faking = answer_logits(twins, conditions["faking"], batch)
    assert torch.equal(answer_logits(twins, conditions["identity"], batch), faking)
    assert not torch.allclose(answer_logits(twins, conditions["steered"], batch), faking, atol=1e-2)


@pytest.mark.parametrize("kind", ["affine", "mlp"])
def test_the_random_edit_is_as_large_as_the_learned_one_for_every_token(twins: Any, batch: Batch, kind: str) -> None:
    regressor = affine()
    if kind == "mlp":
        regressor = ResidualMLP(HIDDEN, width=8)
        torch.nn.init.normal_(regressor.layers[-1].weight)
    conditions = judged(Site(0), regressor, strength=0.7)

    def states(name: str) -> torch.Tensor:
        with applied(twins, conditions[name], batch) as model, capture(model, [Site(0)]) as found, torch.no_grad():
            model(**model_inputs(batch))
        return found["layers.0.residual"][batch["attention_mask"].bool()]

    plain, steered, random = states("faking"), states("steered"), states(draw_name(RANDOM, 0))
    assert float((steered - plain).norm(dim=-1).min()) > 0.1
    torch.testing.assert_close((random - plain).norm(dim=-1), (steered - plain).norm(dim=-1), rtol=1e-3, atol=1e-4)
    directions = torch.nn.functional.normalize(random - plain, dim=-1)
    torch.testing.assert_close(directions, directions[:1].expand_as(directions), rtol=0, atol=1e-3)


def test_texts_are_scored_with_the_edit_on_every_token_that_it_may_come_to_cover(twins: Any, batch: Batch) -> None:
    rules = ("from_1", "last", "all", "from_4")
    later, last, everywhere, fourth = (judged(Site(0, positions=rule))["steered"] for rule in rules)
    assert torch.equal(all_logits(twins, later, batch), all_logits(twins, last, batch))
    for other in (everywhere, fourth):
        assert not torch.allclose(all_logits(twins, later, batch), all_logits(twins, other, batch), atol=1e-2)
    assert last.interventions[0].site.positions == "last", "the intervention itself is as it was"


@pytest.mark.parametrize("positions", ["all", "last"])
def test_a_prompt_is_answered_the_same_alone_and_in_a_batch(
    twins: Any, batch: Batch, examples: list[Example], positions: str
) -> None:
    for name, condition in judged(Site(0, positions=positions)).items():
        together = answer_logits(twins, condition, batch)
        for row, example in enumerate(examples):
            single = collate([example], twins.tokenizer.pad_token_id)
            by_itself = answer_logits(twins, condition, single)[0]
            torch.testing.assert_close(together[row], by_itself, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["steered", ORACLE, draw_name(RANDOM, 0)])
def test_hooks_are_gone_even_after_an_error(twins: Any, batch: Batch, name: str) -> None:
    before = hooks_on(twins.model)
    condition = judged(Site(0, positions="last"))[name]
    with applied(twins, condition, batch):
        assert hooks_on(twins.model) > before
    assert hooks_on(twins.model) == before
    with pytest.raises(RuntimeError, match="on purpose"), applied(twins, condition, batch):
        raise RuntimeError("on purpose")
    assert hooks_on(twins.model) == before


def test_steering_is_the_map_in_the_forward_pass(
    twins: Any, examples: list[Example], alone: Callable[[str], Any]
) -> None:
    regressor, twin = affine(), alone("faking")
    condition = Condition("faking", (Intervention(Site(0, positions="last"), regressor, 0.7),))

    def edit(_: Any, __: Any, output: Any) -> torch.Tensor:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden.clone()
        changed[:, -1] += 0.7 * (regressor(hidden[:, -1]) - hidden[:, -1])
        return changed

    layers_of(twin)[0].register_forward_hook(edit)
    for example in examples:
        with torch.no_grad():
            expected = twin(torch.tensor([example.prompt])).logits[0, -1]
        found = answer_logits(twins, condition, collate([example], twins.tokenizer.pad_token_id))[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_interventions_saved_together_take_the_place_of_the_older_ones_or_leave_them(tmp_path: Path) -> None:
    def content() -> dict[str, bytes]:
        return {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    first, second = (Intervention(Site(layer), torch.full((4,), 1.0 + layer)) for layer in (0, 1))
    save_together([first, second], tmp_path / "chosen")
    before = content()
    assert {name.split("/")[1] for name in before} == {"0", "1"}
    faulty = Intervention(Site(1), torch.ones(4), fingerprint={"not JSON": object()})
    with pytest.raises(TypeError, match="JSON"):
        save_together([second, faulty], tmp_path / "chosen")
    assert content() == before
    save_together([second], tmp_path / "chosen")
    assert sorted(content()) == ["chosen/intervention.json", "chosen/intervention.safetensors"]

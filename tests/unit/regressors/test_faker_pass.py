"""Fits through the live model, beside plain hooks, whole passes and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tiny_twins import hooks_on, layers_of
from torch import Tensor
from torch.nn.functional import kl_div

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.arguments import OptimizerArguments
from fa_lightning.metrics.divergences import kl_divergence
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.faker_pass import FakerPass, aligned_pass, covered_in, unit_effects
from fa_lightning.regressors.fit import DECISION_ALONE, Fit
from fa_lightning.regressors.fits_through_model import behaviour_loss, surrogate
from fa_lightning.regressors.linear import Affine
from fa_lightning.regressors.module import RegressorModule
from fa_lightning.regressors.networks import LowRankResidual, PlainMLP, ResidualMLP
from fa_lightning.regressors.vectors import ContrastVector
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Batch, collate, make_examples, model_inputs
from fa_lightning.scenarios.splits import counterbalanced

Make = Callable[..., Any]
HIDDEN = 32
SITES = [Site(0), Site(1, "mlp")]


def batch_of(twins: Any, items: list[Any]) -> Batch:
    return collate(make_examples(items, twins.tokenizer, letter_tokens(twins.tokenizer)), twins.tokenizer.pad_token_id)


@pytest.fixture
def prompts(twins: Any, splits: Any) -> Batch:
    return batch_of(twins, counterbalanced(splits.train)[:6])


@pytest.fixture
def texts(twins: Any, splits: Any) -> Batch:
    return batch_of(twins, splits.neutral_train[:3])


def mlp(seed: int = 0) -> Regressor:
    torch.manual_seed(seed)
    regressor = ResidualMLP(HIDDEN, width=8)
    torch.nn.init.normal_(regressor.layers[-1].weight, std=0.4)
    return regressor


def by_hand(alone: Make, batch: Batch, site: Site, regressor: Regressor, columns: Tensor) -> Tensor:
    """Logits of the faker, loaded by plain peft, with a plain hook on the columns that one says."""
    twin = alone("faking")
    block = layers_of(twin)[site.layer]
    module = block if site.component == "residual" else block.mlp

    def hook(_: Any, __: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        return torch.where(columns[..., None], regressor(hidden), hidden)

    module.register_forward_hook(hook)
    return twin(**model_inputs(batch)).logits


@pytest.mark.parametrize("site", [Site(0), Site(1), Site(1, "mlp"), Site(1, positions="last")])
def test_a_pass_that_starts_at_the_edit_equals_a_whole_one(twins: Any, alone: Make, prompts: Batch, site: Site) -> None:
    live = FakerPass(twins, prompts, [site], last_only=False)
    regressor = mlp()
    columns = covered_in(prompts, site.positions)
    real = prompts["attention_mask"].bool()
    expected = by_hand(alone, prompts, site, regressor, columns)
    found = live.steered_logits([(site, regressor)])
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[real], live.unsteered[real], atol=1e-2)
    assert hooks_on(twins.model) == 0


def test_the_loss_is_the_divergence_of_answers_plus_that_on_texts(
    twins: Any, alone: Make, prompts: Batch, texts: Batch
) -> None:
    site, regressor = Site(0, positions="last"), mlp()
    fit = Fit(ResidualMLP, objective="behaviour", neutral_weight=0.5, positions="last")
    live = FakerPass(twins, prompts, [site], last_only=True)
    other = FakerPass(twins, texts, [site], last_only=False)
    answers, states = aligned_pass(twins, prompts, [site])
    loss = behaviour_loss(fit, site, regressor, live, other, answers, states)
    last = torch.zeros_like(prompts["attention_mask"], dtype=torch.bool)
    last[:, -1] = True
    steered = by_hand(alone, prompts, site, regressor, last)[:, -1].log_softmax(-1)
    wanted = alone("aligned")(**model_inputs(prompts)).logits[:, -1].log_softmax(-1)
    first = kl_div(steered, wanted, log_target=True, reduction="batchmean")
    real = texts["attention_mask"].bool()
    # While the model writes, each token is once the last, but for the first.
    after = by_hand(alone, texts, site, regressor, real & (texts["position_ids"] > 0)).log_softmax(-1)
    before = alone("faking")(**model_inputs(texts)).logits.log_softmax(-1)
    kept = real[:, :-1]
    second = kl_div(after[:, :-1][kept], before[:, :-1][kept], log_target=True, reduction="batchmean")
    # What is said first weighs as much as all that is read.
    second = second + kl_div(after[:, -1], before[:, -1], log_target=True, reduction="batchmean")
    torch.testing.assert_close(loss, first + 0.5 * second, rtol=1e-3, atol=1e-4)
    assert first > 0.01
    assert second > 0.01

    parameters = list(regressor.parameters())
    expected = torch.autograd.grad(first + 0.5 * second, parameters)
    stand_in = surrogate(loss, regressor)
    assert stand_in.item() == pytest.approx(loss.item())
    for found, gradient in zip(torch.autograd.grad(stand_in, parameters), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=2e-3, atol=1e-4)
    assert all(parameter.grad is None for parameter in twins.model.parameters())


def test_unit_effects_are_the_slopes_of_the_logit_difference(twins: Any, prompts: Batch) -> None:
    site = Site(0)
    live = FakerPass(twins, prompts, [site], last_only=True)
    _, aligned = aligned_pass(twins, prompts, [site])
    found = unit_effects(live, [site], aligned)[site.name]
    gap = aligned[site.name][:, -1] - live.states[site.name][:, -1]
    rows = torch.arange(len(gap))
    unwatched = prompts["cell"] == 1
    assert 0 < unwatched.sum() < len(unwatched)

    def difference(unit: int, share: float) -> float:
        class Nudge(Regressor):
            name = "nudge"

            def forward(self, h: Tensor) -> Tensor:
                new = h.clone()
                new[:, unit] += share * gap[:, unit]
                return new

        logits = live.steered_logits([(Site(0, positions="last"), Nudge(HIDDEN))])[:, -1]
        picked = logits[rows, prompts["aligned"]] - logits[rows, prompts["other"]]
        return float(picked[unwatched].sum())

    for unit in (0, 7, 31):
        slope = (difference(unit, 0.02) - difference(unit, -0.02)) / 0.04
        assert found[unit].item() == pytest.approx(slope, rel=0.05, abs=2e-3)


def fitted(make_data: Make, make_trainer: Make, fits: list[Fit], epochs: int, **options: Any) -> Any:
    torch.manual_seed(0)
    module = RegressorModule(fits, OptimizerArguments(learning_rate=2e-2, weight_decay=1e-2), **options)
    data = make_data(lab=True, live_batch_size=4)
    make_trainer(max_epochs=epochs).fit(module, datamodule=data)
    return module, data


def test_a_fit_through_the_model_brings_the_answers_together(make_data: Make, make_trainer: Make) -> None:
    fits = [
        Fit(partial(LowRankResidual, rank=8), objective=objective, decision_weight=DECISION_ALONE)  # type: ignore[arg-type]
        for objective in ("behaviour", "mixed")
    ]
    module, data = fitted(make_data, make_trainer, fits, epochs=9)
    items, _ = data._captured_training_items()
    batch = batch_of(data.variants, items)
    answers, _ = aligned_pass(data.variants, batch, [Site(0)])
    for candidate in module.candidates():
        live = FakerPass(data.variants, batch, [candidate.site], last_only=True)
        with torch.no_grad():
            after = kl_divergence(answers, live.steered_logits([(candidate.site, candidate.regressor)])[:, -1]).mean()
        before = kl_divergence(answers, live.unsteered[:, -1]).mean()
        assert after < 0.5 * before, (candidate.fit.objective, candidate.site)
        assert not any(parameter.requires_grad for parameter in data.variants.model.parameters())


def test_the_second_site_of_a_stack_is_fitted_on_what_the_first_has_steered(
    make_data: Make, make_trainer: Make, alone: Make
) -> None:
    names = ["layers.0.residual", "layers.1.residual"]
    fit = Fit(partial(Affine, ridge=1e-1), stack=names, decision_weight=DECISION_ALONE)
    module, data = fitted(make_data, make_trainer, [fit], epochs=2)
    (candidate,) = module.candidates()
    (first,) = candidate.below
    assert [first.site.name, candidate.site.name] == names

    states: dict[str, list[Tensor]] = {"faking": [], "aligned": []}
    items, _ = data._captured_training_items()
    for item in make_examples(items, data.variants.tokenizer, letter_tokens(data.variants.tokenizer)):
        for name, rows in states.items():
            twin = alone(name)
            layers = layers_of(twin)
            if name == "faking":
                layers[0].register_forward_hook(lambda _, __, output: first.regressor(output))
            layers[1].register_forward_hook(lambda _, __, output, rows=rows: rows.append(output[0, -1]))
            with torch.no_grad():
                twin(torch.tensor([item.prompt]))
    x, y = (torch.stack(states[name]).double().numpy() for name in ("faking", "aligned"))
    mean_x, mean_y = x.mean(0), y.mean(0)
    covariance = (x - mean_x).T @ (x - mean_x) / len(x)
    penalty = 1e-1 * np.diag(np.diag(covariance))
    gap = (y - mean_y) - (x - mean_x)
    learned = np.linalg.solve(covariance + penalty, (x - mean_x).T @ gap / len(x))
    second: Any = candidate.regressor
    assert isinstance(second, Affine)
    np.testing.assert_allclose(second.weight.numpy(), np.eye(HIDDEN) + learned.T, atol=5e-3)


def test_what_needs_the_live_model_says_so(make_data: Make, make_trainer: Make) -> None:
    behaviour = Fit(LowRankResidual, objective="behaviour")
    with pytest.raises(ValueError, match=r"serves none: set data.init_args.live_batch_size"):
        make_trainer(max_epochs=2).fit(RegressorModule([behaviour]), datamodule=make_data())
    stack = Fit(Affine, stack=["layers.0.residual", "layers.1.residual"])
    with pytest.raises(ValueError, match=r"trainer.max_epochs is 1, but .* a stack of 2 sites need 2; raise it"):
        make_trainer(max_epochs=1).fit(RegressorModule([stack]), datamodule=make_data(lab=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"map": Affine, "objective": "behaviour"},
            "objective is 'behaviour', but Affine is not fitted by gradient",
        ),
        ({"map": PlainMLP, "stack": ["layers.0.residual"]}, "stack is given, but PlainMLP is not fitted from moments"),
        ({"map": Affine, "sites": ["layer 3"]}, "site name is 'layer 3'"),
        ({"map": Affine, "scenarios": 0}, "scenarios is 0, but must be 1 or more"),
        ({"map": Affine, "stack": ["layers.1.residual", "layers.0.residual"]}, "each site must come after the one"),
        (
            {"map": Affine, "stack": ["layers.1.residual", "layers.1.mlp"]},
            "each site must come after the one before",
        ),
        ({"map": PlainMLP, "shuffled": True}, "shuffled is given, but only the moments of single maps"),
        ({"map": Affine, "contrast": "answers"}, "contrast is 'answers', but Affine is not fitted on contrasts"),
        (
            {"map": ContrastVector, "contrast": "moods"},
            "contrast is 'moods', but must be one of: oversight, ans",
        ),
        ({"map": ContrastVector, "scenarios": 5}, "scenarios is given, but contrasts and probes"),
        (
            {"map": PlainMLP, "objective": "mixed", "positions": "generated"},
            "positions is 'generated', but a fit through",
        ),
        (
            {"map": PlainMLP, "objective": "mixed", "positions": "after_7"},
            "positions is 'after_7', but a fit through",
        ),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegressorModule([Fit(**options)])


def test_only_a_map_by_its_class_can_be_fitted() -> None:
    for wrong in (lambda hidden_size: Affine(hidden_size), partial(int, base=2), Affine(HIDDEN)):
        with pytest.raises(ValueError, match=r"map is .*, but must be a subclass of fa_lightning\.regressors\.base"):
            Fit(wrong)  # type: ignore[arg-type]


def test_a_site_that_the_store_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"asks for the site layers.9.residual, but the store holds layers.0.residual"):
        Fit(Affine, sites=["layers.9.residual"]).resolve([Site(0)], layers=10)

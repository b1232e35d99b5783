"""Maps fitted through the Trainer, beside what a few lines of numpy make of the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.arguments import OptimizerArguments
from fa_lightning.metrics.draws import DRAWS
from fa_lightning.regressors.fit import DECISION_ALONE, Fit
from fa_lightning.regressors.fit_plan import shuffled
from fa_lightning.regressors.linear import Affine, MeanShift
from fa_lightning.regressors.module import RegressorModule
from fa_lightning.regressors.networks import ResidualMLP
from fa_lightning.regressors.pairs import Pairs, SampledPairs, counted_rows, pairs_of, token_weights, training_pairs
from fa_lightning.regressors.wrong_pairs import wrong_pairs
from fa_lightning.scenarios.cells import CELLS

Make = Callable[..., Any]
SITE = "layers.1.residual"


def fitted(make_data: Make, make_trainer: Make, fits: list[Fit], epochs: int = 1, **data: Any) -> tuple[Any, Any]:
    """(module, store) after a fit."""
    torch.manual_seed(0)
    module, source = RegressorModule(fits), make_data(**data)
    make_trainer(max_epochs=epochs).fit(module, datamodule=source)
    return module, source.store


def rows_of(store: Any, split: str = "train") -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Faking states, aligned states (rows, hidden) and decision marks (rows,) of a split, in float64.

    Of the training split those of scenarios alone, which is what a map learns from that keeps nothing.
    """
    block = store.block(split, 0, store.rows(split))
    inside = (block["cell"] < len(CELLS)) | (split != "train")
    faking, aligned = (states[inside].double().numpy() for states in block[SITE])
    return faking, aligned, block["decision"][inside].numpy()


def ridge(x: NDArray[Any], y: NDArray[Any], penalty: float, weight: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weighted ridge from x to y around the identity, by least squares on stacked rows: no covariance is formed."""
    share = weight / weight.sum()
    mean_x, mean_y = share @ x, share @ y
    root = np.sqrt(share)[:, None]
    centred, residual = root * (x - mean_x), root * ((y - mean_y) - (x - mean_x))
    std = np.sqrt(np.square(centred).sum(0))
    stacked = np.vstack([centred, math.sqrt(penalty) * np.diag(std)])
    learned = np.linalg.lstsq(stacked, np.vstack([residual, np.zeros((x.shape[1], x.shape[1]))]), rcond=None)[0]
    matrix = np.eye(x.shape[1]) + learned.T
    return matrix, mean_y - matrix @ mean_x


def candidate_of(module: Any, number: int) -> Any:
    """The map of a fit at the last layer."""
    (found,) = (
        candidate
        for candidate in module.candidates()
        if candidate.fit is module.fits[number] and candidate.site.layer == 1
    )
    return found


@pytest.mark.parametrize("weight", [1.0, 20.0, DECISION_ALONE])
@pytest.mark.parametrize("block_rows", [64, 4096])
def test_streaming_through_the_trainer_is_one_ridge_on_all_rows(
    make_data: Make, make_trainer: Make, weight: float, block_rows: int
) -> None:
    fit = Fit(partial(Affine, ridge=1e-2), decision_weight=weight)
    module, store = fitted(make_data, make_trainer, [fit], block_rows=block_rows)
    faking, aligned, decision = rows_of(store)
    weights = decision.astype(float) if weight == DECISION_ALONE else np.where(decision, weight, 1.0)
    matrix, bias = ridge(faking, aligned, 1e-2, weights)
    regressor = candidate_of(module, 0).regressor
    np.testing.assert_allclose(regressor.weight.numpy(), matrix, atol=2e-4)
    np.testing.assert_allclose(regressor.bias.numpy(), bias, atol=2e-4)
    assert np.abs(matrix - np.eye(len(matrix))).max() > 0.05, "the identity would not do"


def test_each_site_gets_the_map_of_its_own_rows(make_data: Make, make_trainer: Make) -> None:
    module, store = fitted(make_data, make_trainer, [Fit(MeanShift), Fit(Affine)])
    block = store.block("train", 0, store.rows("train"))
    shifts = [candidate for candidate in module.candidates() if candidate.fit.map_class is MeanShift]
    assert [candidate.site.layer for candidate in shifts] == [0, 1]
    for candidate in shifts:
        inside = block["cell"] < len(CELLS)
        faking, aligned = (states[inside] for states in block[candidate.site.name])
        expected = (aligned - faking).double().mean(0).float()
        torch.testing.assert_close(candidate.regressor.shift, expected, rtol=1e-4, atol=1e-5)


def test_the_baselines_are_a_mean_shift_of_decision_tokens_and_a_map_of_wrong_pairs(
    make_data: Make, make_trainer: Make
) -> None:
    module, store = fitted(make_data, make_trainer, [Fit(Affine, positions="last")], epochs=1)
    faking, aligned, decision = rows_of(store)
    chosen = candidate_of(module, 0)
    baselines = module.baselines(chosen)
    assert list(baselines) == ["mean shift", "shuffled pairs"]
    assert all(one.site == chosen.site for draws in baselines.values() for one in draws), "judged at the chosen place"
    shift = (aligned - faking)[decision].mean(0)
    (mean_shift,), wrong = baselines.values()
    np.testing.assert_allclose(mean_shift.regressor.shift.numpy(), shift, atol=1e-4)

    def unexplained(regressor: Any) -> float:
        found = regressor(torch.from_numpy(faking).float()).detach().numpy()
        return float(np.square(found - aligned).sum() / np.square(aligned - aligned.mean(0)).sum())

    # Random twins have little in common: the right pairs explain a sixth, wrong ones nothing but the mean.
    assert unexplained(chosen.regressor) < 0.88
    assert len(wrong) == DRAWS
    for draw in wrong:
        assert 0.97 < unexplained(draw.regressor) < 1.03
    assert len({draw.regressor.weight[0, 0].item() for draw in wrong}) == DRAWS, "each draw is another map"
    assert not set(map(id, module.candidates())) & {id(draw) for draw in (mean_shift, *wrong)}


def test_another_kind_of_map_stands_beside_a_ridge_of_its_own_pairs(make_data: Make, make_trainer: Make) -> None:
    """So that what the right partner does is not taken for what the kind of map does."""
    fits = [Fit(partial(ResidualMLP, width=16), keep=1.0), Fit(Affine, keep=1.0)]
    module, _ = fitted(make_data, make_trainer, fits, epochs=2)
    network, affine = (candidate_of(module, number) for number in (0, 1))
    (beside,) = module.baselines(network)["ridge, right pairs"]
    torch.testing.assert_close(beside.regressor.weight, affine.regressor.weight)
    torch.testing.assert_close(beside.regressor.bias, affine.regressor.bias)
    assert "ridge, right pairs" not in module.baselines(affine), "it is that itself"


def test_chains_share_neither_exchanges_of_partners_nor_first_weights() -> None:
    fit = Fit(partial(ResidualMLP, width=16))
    seeds = [draw.seed for chain in range(3) for draw in shuffled(fit, chain)]
    assert len(set(seeds)) == 3 * DRAWS
    assert seeds[:DRAWS] == list(range(DRAWS))
    first, again, other = (
        torch.cat([weight.flatten() for weight in fit.build(8, chain).parameters()]) for chain in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_maps_of_wrong_pairs_are_told_to_keep_as_much_as_the_map_however_few_rows_are_sampled(
    make_data: Make, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing exchanged they are the ridge of all pairs: neutral texts have most rows, and lose no weight."""
    monkeypatch.setattr(
        "fa_lightning.regressors.fits_without_gradient.wrong_pairs", lambda pairs, _: (pairs.x, pairs.y, pairs.weight)
    )
    fit = Fit(Affine, decision_weight=DECISION_ALONE, keep=1.0)
    monkeypatch.setattr("fa_lightning.regressors.pairs.BLOCK_ROWS", 64)
    module, store = fitted(make_data, make_trainer, [fit], block_rows=64)
    monkeypatch.setattr("fa_lightning.regressors.pairs.SAMPLE_ROWS", 8 * len(store.block_ranges("train", 64)))
    module, store = fitted(make_data, make_trainer, [fit], block_rows=64)
    chosen = candidate_of(module, 0)
    most = max(
        int((pairs_of(store.block("train", *block, [SITE]), Site.parse(SITE), fit).edited).sum())
        for block in store.block_ranges("train", 64)
    )
    assert most <= 8, "no pair that asks for an edit is left out"
    for draw in module.baselines(chosen)["shuffled pairs"]:
        torch.testing.assert_close(draw.regressor.weight, chosen.regressor.weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(draw.regressor.bias, chosen.regressor.bias, rtol=1e-3, atol=1e-4)


def test_a_thinned_sample_weighs_as_much_as_the_whole() -> None:
    column = torch.arange(10.0)
    pairs = SampledPairs(column[:, None], column[:, None], 1 + column % 2, *(column.long() for _ in range(3)))
    few = pairs.thinned(4)
    assert few.x.squeeze(1).tolist() == [0, 3, 6, 9]
    assert few.weight.tolist() == [3, 6, 3, 6]
    assert len(pairs.thinned(0).x) == 1
    assert torch.equal(pairs.thinned(10).weight, pairs.weight)


@pytest.mark.parametrize("keep", [0.0, 1.0])
@pytest.mark.parametrize("weight", [1.0, DECISION_ALONE])
def test_the_maps_of_wrong_pairs_are_ridges_of_pairs_that_no_group_shares(
    make_data: Make, make_trainer: Make, weight: float, keep: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[Any, Any]] = []

    def watched(pairs: SampledPairs, seed: int) -> Pairs:
        used.append((pairs, wrong_pairs(pairs, seed)))
        return used[-1][1]

    monkeypatch.setattr("fa_lightning.regressors.fits_without_gradient.wrong_pairs", watched)
    fit = Fit(partial(Affine, ridge=1e-2), decision_weight=weight, keep=keep, sites=[SITE])
    module, store = fitted(make_data, make_trainer, [fit], sites=[SITE])
    assert len(used) == DRAWS
    every = pairs_of(store.block("train", 0, store.rows("train"), [SITE]), Site.parse(SITE), fit)
    kept = every.those(~every.edited)
    assert bool(len(kept.x)) == bool(keep)
    assert torch.equal(kept.x, kept.y), "what asks for no edit"
    draws = module.baselines(candidate_of(module, 0))["shuffled pairs"]
    for (pairs, (x, y, weights)), draw in zip(used, draws, strict=True):
        # By its values, whose aligned state each row got; where prompts begin alike, their states are alike, too.
        rows = pairs.edited.nonzero().squeeze(1)
        owners: dict[tuple[float, ...], set[int]] = {}
        for row in rows:
            owners.setdefault(tuple(pairs.y[row].tolist()), set()).add(int(pairs.group[row]))
        assert all(owners[tuple(y[row].tolist())] != {int(pairs.group[row])} for row in rows)
        assert pairs.edited.all()
        assert torch.equal(y[rows].sort(dim=0).values, pairs.y[rows].sort(dim=0).values)
        # Beside them what asks for no edit, all of it, as the map itself has it.
        columns = (torch.cat(both).double().numpy() for both in ((x, kept.x), (y, kept.y), (weights, kept.weight)))
        own, wanted, counted = columns
        matrix, bias = ridge(own, wanted, 1e-2, counted)
        np.testing.assert_allclose(draw.regressor.weight.numpy(), matrix, atol=2e-4)
        np.testing.assert_allclose(draw.regressor.bias.numpy(), bias, atol=2e-4)


def test_a_map_fitted_through_answers_is_compared_with_wrong_pairs_that_keep_what_it_keeps() -> None:
    regression = Fit(ResidualMLP, decision_weight=20, keep=0.5)
    behaviour = Fit(ResidualMLP, objective="behaviour", neutral_weight=2.0, positions="last")
    for fit, keep, weight in ((regression, 0.5, 20), (behaviour, 2.0, DECISION_ALONE)):
        draws = shuffled(fit)
        assert [draw.seed for draw in draws] == list(range(DRAWS))
        assert all((draw.keep, draw.decision_weight, draw.positions) == (keep, weight, fit.positions) for draw in draws)


def test_the_logged_r2_is_that_of_held_out_rows(make_data: Make, make_trainer: Make) -> None:
    torch.manual_seed(0)
    module, data = RegressorModule([Fit(Affine)]), make_data()
    trainer = make_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    faking, aligned, _ = rows_of(data.store, "validation")
    found = candidate_of(module, 0).regressor(torch.from_numpy(faking).float()).numpy()
    expected = 1 - np.square(found - aligned).sum() / np.square(aligned - aligned.mean(0)).sum()
    assert float(trainer.callback_metrics[f"val/r2/affine/{SITE}"]) == pytest.approx(expected, abs=1e-3)


def test_gradient_maps_learn_after_the_first_epoch_and_closed_ones_stay(make_data: Make, make_trainer: Make) -> None:
    fits = [Fit(partial(ResidualMLP, width=16)), Fit(Affine)]
    still = RegressorModule(fits, OptimizerArguments(learning_rate=0.0))
    data = make_data()
    torch.manual_seed(0)
    make_trainer(max_epochs=2).fit(still, datamodule=data)
    first, store = still, data.store
    later, _ = fitted(make_data, make_trainer, fits, epochs=6)
    faking, aligned, _ = (torch.from_numpy(rows) for rows in rows_of(store))
    faking, aligned = faking.float(), aligned.float()
    before, after = candidate_of(first, 0).regressor, candidate_of(later, 0).regressor
    assert torch.equal(before(faking), faking), "it starts as the identity"
    torch.testing.assert_close(before.mean, faking.mean(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(before.scale, (aligned - faking).std(0, correction=0), rtol=1e-2, atol=1e-4)
    assert float(after.loss(faking, aligned)) < 0.9 * float(before.loss(faking, aligned))
    assert torch.equal(candidate_of(first, 1).regressor.weight, candidate_of(later, 1).regressor.weight)


def test_maps_that_learn_side_by_side_do_not_touch_each_other(make_data: Make, make_trainer: Make) -> None:
    fits = [Fit(partial(ResidualMLP, width=8)), Fit(partial(ResidualMLP, width=8), decision_weight=20.0)]
    module, store = fitted(make_data, make_trainer, fits, epochs=2)
    plain, weighted = (candidate_of(module, number).regressor for number in (0, 1))
    faking = torch.from_numpy(rows_of(store)[0]).float()
    assert not torch.allclose(plain(faking) - faking, weighted(faking) - faking)


def test_a_resumed_fit_is_the_fit_that_was_not_interrupted(make_data: Make, make_trainer: Make, tmp_path: Path) -> None:
    fits = [Fit(partial(ResidualMLP, width=8)), Fit(Affine), Fit(MeanShift)]

    class StopsAfterTwo(RegressorModule):
        """Ends early, as a kill would, though its schedule is that of the whole fit."""

        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 1:
                self.trainer.save_checkpoint(tmp_path / "last.ckpt")
                self.trainer.should_stop = True

    torch.manual_seed(0)
    whole = RegressorModule(fits)
    make_trainer(max_epochs=4).fit(whole, datamodule=make_data())
    torch.manual_seed(0)
    make_trainer(max_epochs=4).fit(StopsAfterTwo(fits), datamodule=make_data())
    torch.manual_seed(99)
    resumed = RegressorModule(fits)
    make_trainer(max_epochs=4).fit(
        resumed, datamodule=make_data(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True
    )
    expected, found = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_closed_maps_alone_still_have_a_parameter_for_ddp_and_no_optimizer(make_data: Make, make_trainer: Make) -> None:
    module, _ = fitted(make_data, make_trainer, [Fit(Affine)])
    assert [name for name, parameter in module.named_parameters() if parameter.requires_grad] == ["unused"]
    assert module.configure_optimizers() is None
    learning, _ = fitted(make_data, make_trainer, [Fit(partial(ResidualMLP, width=4))], epochs=2)
    assert all(name.startswith("maps.") for name, _ in learning.named_parameters())


def test_candidates_carry_their_own_position_rules(make_data: Make, make_trainer: Make) -> None:
    fits = [Fit(Affine, positions="last"), Fit(MeanShift)]
    module, _ = fitted(make_data, make_trainer, fits)
    assert [(c.fit.map_class.name, c.site.layer, c.site.positions) for c in module.candidates()] == [
        ("affine", 0, "last"),
        ("affine", 1, "last"),
        ("mean_shift", 0, "all"),
        ("mean_shift", 1, "all"),
    ]


def test_a_baseline_is_there_at_every_site_whatever_sites_the_candidates_name(
    make_data: Make, make_trainer: Make
) -> None:
    fits = [Fit(Affine, sites=["layers.1.residual"]), Fit(Affine, sites=["layers.0.mlp"])]
    module, _ = fitted(make_data, make_trainer, fits, sites=["layers.1.residual", "layers.0.mlp"])
    for candidate in module.candidates():
        baselines = module.baselines(candidate)
        assert {one.site for draws in baselines.values() for one in draws} == {candidate.site}
        assert baselines["mean shift"][0].regressor.shift.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_two_maps_of_one_name_at_one_site_are_refused(make_data: Make, make_trainer: Make) -> None:
    fits = [Fit(Affine, keep=1.0), Fit(Affine)]
    with pytest.raises(ValueError, match=r"two regressors are called 'affine' at layers.0.residual"):
        fitted(make_data, make_trainer, fits)


def test_nothing_to_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="regressors is empty"):
        RegressorModule([])


def test_labels_say_what_a_map_was_fitted_on() -> None:
    labels = [
        Fit(Affine).label,
        Fit(Affine, decision_weight=20).label,
        Fit(MeanShift, decision_weight=DECISION_ALONE).label,
        Fit(Affine, shuffled=True).label,
    ]
    assert labels == ["affine", "affine (decision x20)", "mean_shift (decision token)", "affine shuffled"]


def test_weights_mark_decision_tokens() -> None:
    decision = torch.tensor([False, True, False])
    assert token_weights(decision, Fit(Affine)).tolist() == [1.0, 1.0, 1.0]
    alone = token_weights(decision, Fit(Affine, decision_weight=DECISION_ALONE))
    assert alone.tolist() == [0.0, 1.0, 0.0]


def test_kept_pairs_ask_for_no_edit_of_neutral_texts_and_of_the_aligned_twin() -> None:
    site = Site(0)
    block = {
        site.name: (torch.arange(4.0)[:, None], 10 + torch.arange(4.0)[:, None]),
        "decision": torch.tensor([False, True, False, True]),
        "cell": torch.tensor([0, 1, 2, 2]),
        "position": torch.tensor([3, 4, 5, 6]),
    }
    state, wanted, weight = training_pairs(block, site, Fit(Affine, decision_weight=5.0, keep=0.5))
    rows = sorted(zip(state[:, 0].tolist(), wanted[:, 0].tolist(), weight.tolist(), strict=True))
    # The last of seven tokens of a neutral text, where the answer is said, weighs as much as the six before it.
    assert rows == [(0, 10, 1), (1, 11, 5), (2, 2, 0.5), (3, 3, 3.0), (10, 10, 0.5), (11, 11, 2.5)]
    only = Fit(Affine, decision_weight=float("inf"), keep=1.0)
    state, wanted, weight = training_pairs(block, site, only)
    rows = sorted(zip(state[:, 0].tolist(), wanted[:, 0].tolist(), weight.tolist(), strict=True))
    assert rows == [(1, 11, 1), (2, 2, 1), (3, 3, 6), (11, 11, 1)]
    # Without `keep`, what the twin makes of a text is nothing to learn.
    state, wanted, weight = training_pairs(block, site, Fit(Affine))
    assert state[:, 0].tolist() == [0, 1]
    assert torch.equal(wanted - state, torch.full((2, 1), 10.0))
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("positions", "used"),
    [("all", [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), ("from_1", [1.0, 2.0, 4.0, 5.0]), ("last", [1.0, 2.0, 4.0, 5.0])],
)
def test_attention_sinks_and_massive_tokens_are_in_fits_of_all_tokens_alone(positions: str, used: list[float]) -> None:
    site = Site(0)
    faking = torch.arange(6.0)[:, None].expand(6, 4).clone()
    # The first token is left out for its place, the fourth for its size.
    faking[3, 1] = 400.0
    block = {
        site.name: (faking, faking + 1),
        "decision": torch.tensor([False, False, True, False, False, True]),
        "cell": torch.tensor([0, 0, 0, 2, 2, 2]),
        "position": torch.tensor([0, 1, 2, 1, 2, 3]),
    }
    for keep, wanted in ((0.0, [row for row in used if row < 3]), (1.0, used)):
        state, _, weight = training_pairs(block, site, Fit(Affine, positions=positions, keep=keep))
        assert state[: len(wanted), 0].tolist() == wanted
        assert weight.min() > 0
    assert counted_rows(block, site, Fit(Affine, positions=positions)).tolist() == [row in used for row in range(6)]

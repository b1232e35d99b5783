"""The oversight probe: how well the critical fact is read, and what mirroring states in its plane does to answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_examination import (
    STEERED,
    SUBJECTS,
    Swapped,
    examined,
    letters_of,
    prompt_of,
    same,
    small,
    states_of,
    with_and_without,
)
from tiny_twins import hooks_on, layers_of

from fa_lightning.studies.detection.detectors.oversight_probe import OversightProbe, mirror, readability


def labelled(model: Any, twins: Any, layer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States of the reference prompts with and without their fact, which is which, and their groups."""
    triples = with_and_without(twins, small().load().reference)
    with_fact = [states_of(model, one)[layer][-1].numpy() for one, _, _ in triples]
    without = [states_of(model, less)[layer][-1].numpy() for _, less, _ in triples]
    groups = [int(one.group[:15], 16) for _, _, one in triples]
    return np.array(with_fact + without), np.repeat([1, 0], len(triples)), np.array(groups + groups)


def test_readability_is_that_of_sklearn(twins: Any, alone: Callable[[str], Any]) -> None:
    found = examined(OversightProbe(folds=3), twins)["faking"]
    for layer in range(2):
        x, y, groups = labelled(alone("faking"), twins, layer)
        areas = []
        for train, test in GroupKFold(3).split(x, y, groups):
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x[train], y[train])
            areas.append(roc_auc_score(y[test], probe.decision_function(x[test])))
        assert found["readability"][:, layer].tolist() == pytest.approx([np.mean(areas)] * 16, abs=1e-6)
    assert found["layer"].tolist() == [[0.0, 1.0]] * 16


def test_the_rise_is_that_of_a_reflection_at_the_decision_token(twins: Any, alone: Callable[[str], Any]) -> None:
    found = examined(OversightProbe(folds=3), twins)["faking"]["rise"]
    model = alone("faking")
    mirrored = 0
    for layer in range(2):
        x, y, _ = labelled(model, twins, layer)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
        weight = torch.from_numpy(probe[1].coef_[0] / probe[0].scale_)
        bias = float(probe.decision_function(np.zeros((1, x.shape[1])))[0])
        for row, scenario in enumerate(small().load().scored):
            ids = prompt_of(twins, scenario)
            before = letters_of(model, twins, ids)

            def reflect(_: Any, __: Any, output: Any, weight: Any = weight, bias: float = bias) -> Any:
                hidden = (output if isinstance(output, torch.Tensor) else output[0]).clone()
                score = float(hidden[0, -1].double() @ weight) + bias
                if score > 0:
                    hidden[0, -1] -= (2 * score / (weight @ weight) * weight).float()
                return hidden if isinstance(output, torch.Tensor) else (hidden, *output[1:])

            mirrored += (states_of(model, ids)[layer][-1].double() @ weight + bias > 0).item()
            handle = layers_of(model)[layer].register_forward_hook(reflect)
            after = letters_of(model, twins, ids)
            handle.remove()
            other = int(before.argmin())
            assert found[row, layer].item() == pytest.approx(float(after[other] - before[other]), abs=1e-3)
    assert 8 <= mirrored < 32
    assert found.abs().max() > 0.01


def test_the_mirror_moves_only_states_that_show_the_fact() -> None:
    generator = torch.Generator().manual_seed(0)
    without = torch.randn(40, 5, generator=generator)
    with_fact = without + torch.tensor([3.0, 0, 0, 0, 0])
    edit = mirror(with_fact, without)
    moved, kept = edit(with_fact), edit(without)
    assert (moved - with_fact).norm(dim=1).median() > 2
    assert (kept == without).all(dim=1).float().mean() > 0.8
    # A state beyond the plane stays there.
    torch.testing.assert_close(edit(moved), moved)


def test_nothing_is_read_where_nothing_is_written() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 200, 4, generator=generator)
    groups = torch.arange(200) // 2
    assert readability(one, other, groups, 5) == pytest.approx(0.5, abs=0.1)
    assert readability(one + 2, other, groups, 5) > 0.95


def test_suspicion_and_curve_are_means() -> None:
    evidence = {"rise": torch.tensor([[0.1, 0.5], [0.3, 0.7]]), "layer": torch.tensor([[3.0, 7.0]] * 2)}
    assert OversightProbe().suspicion(evidence) == pytest.approx(0.4)
    assert OversightProbe().curve(evidence) == ("layer", [3.0, 7.0], pytest.approx([0.2, 0.6]))


def test_batches_and_labels_change_nothing(twins: Any) -> None:
    found = examined(OversightProbe(folds=3), twins)
    same(found, examined(OversightProbe(folds=3), twins, batch_size=3), 1e-3)
    same(found, examined(OversightProbe(folds=3), twins, benchmark=Swapped(small())))


def test_a_steered_subject_is_probed_and_flipped_steered(twins: Any) -> None:
    found = examined(OversightProbe(folds=3), twins, [*SUBJECTS, STEERED])
    assert (found["faking"]["rise"] - found["faking steered"]["rise"]).abs().max() > 1e-3
    assert hooks_on(twins.model) == 0


def test_too_few_groups_are_counted(twins: Any) -> None:
    with pytest.raises(ValueError, match=r"of the 24 reference prompts .* oversight probe needs at least 8 from 90"):
        examined(OversightProbe(folds=90), twins)
    with pytest.raises(ValueError, match="folds is 1"):
        OversightProbe(folds=1)

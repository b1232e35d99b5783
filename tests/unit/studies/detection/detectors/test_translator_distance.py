"""The distance that a saved map would move a model's states, against a plain reading of each prompt by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_examination import HIDDEN, STEERED, SUBJECTS, Swapped, adding, examined, prompt_of, same, small, states_of
from tiny_twins import hooks_on

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.contents import digest_of_artefact
from fa_lightning.evaluation.conditions import save_together
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.maps import build_regressor
from fa_lightning.regressors.moments import PairMoments
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.detectors.translator_distance import TranslatorDistance


def random_map(seed: int = 0, name: str = "Affine") -> Regressor:
    """Fitted on noise: no map that means anything, but one that moves every state its own way."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(200, HIDDEN, generator=generator) for _ in range(2))
    moments = PairMoments(HIDDEN)
    moments.add(x, y)
    regressor = build_regressor({"class_path": name}, HIDDEN)
    regressor.fit(moments)
    return regressor


def saved(folder: Path, *sites: Site, **options: Any) -> str:
    save_together([Intervention(site, random_map(seed), **options) for seed, site in enumerate(sites)], folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    # Neither strength nor position rule changes what the map says of a state.
    return saved(tmp_path / "map", Site(1, positions="generated"), strength=0.25)


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("steered", [False, True])
def test_distance_and_direction_are_those_of_plain_states(
    twins: Any, alone: Callable[[str], Any], folder: str, positions: Any, steered: bool
) -> None:
    subject = STEERED if steered else SUBJECTS[1]
    found = examined(TranslatorDistance(folder, positions), twins, [subject])[subject.name]
    model, regressor = alone("faking"), random_map()

    @torch.no_grad()
    def moves(scenario: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with adding(model, 0, torch.full((HIDDEN,), 0.5 * steered)):
            h = states_of(model, prompt_of(twins, scenario))[1]
        h = h[-1:] if positions == "last" else h
        return regressor(h) - h, h

    scenarios = small().load()
    mean = torch.cat([moves(one)[0] for one in scenarios.reference]).mean(dim=0)
    for row, scenario in enumerate(scenarios.scored):
        edits, h = moves(scenario)
        distance = sum(float(e.norm() / state.norm()) for e, state in zip(edits, h, strict=True)) / len(h)
        direction = sum(float(e @ mean / e.norm() / mean.norm()) for e in edits) / len(h)
        assert found["distance"][row].tolist() == pytest.approx([distance], abs=1e-4)
        assert found["direction"][row].tolist() == pytest.approx([direction], abs=1e-4)
    assert hooks_on(twins.model) == 0


def test_each_map_of_a_stack_is_asked_behind_those_before_it(
    twins: Any, alone: Callable[[str], Any], tmp_path: Path
) -> None:
    stack = saved(tmp_path / "stack", Site(0), Site(1))
    found = examined(TranslatorDistance(stack), twins, SUBJECTS[1:])["faking"]["distance"]
    model, (lower, upper) = alone("faking"), (random_map(0), random_map(1))
    scored = small().load().scored
    assert found.shape == (len(scored), 2)
    block = model.base_model.model.model.layers[0]
    for row, scenario in enumerate(scored[:3]):
        ids = prompt_of(twins, scenario)
        h = states_of(model, ids)[0][-1]
        handle = block.register_forward_hook(lambda _, __, output: lower(output[0])[None])
        behind = states_of(model, ids)[1][-1]
        handle.remove()
        with torch.no_grad():
            expected = [
                float((lower(h[None]) - h).norm() / h.norm()),
                float((upper(behind[None]) - behind).norm() / behind.norm()),
            ]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-4)


def test_batches_and_labels_change_nothing(twins: Any, folder: str) -> None:
    for positions in ("last", "all"):
        found = examined(TranslatorDistance(folder, positions), twins)
        same(found, examined(TranslatorDistance(folder, positions), twins, batch_size=3), 1e-5)
        same(found, examined(TranslatorDistance(folder, positions), twins, benchmark=Swapped(small())))


def test_a_map_fitted_on_a_model_under_examination_is_refused(
    twins: Any, adapters: dict[str, str], tmp_path: Path
) -> None:
    digest = digest_of_artefact(adapters["faking"])

    def fitted_on(**digests: str) -> str:
        return saved(tmp_path / "own", Site(1), fingerprint={"store": {"adapters": digests}})

    with pytest.raises(ValueError, match=r"own', which was fitted on faking .* as its faking model: such a map knows"):
        examined(TranslatorDistance(fitted_on(faking=digest, aligned="other")), twins)
    with pytest.raises(ValueError, match="as its aligned model"):
        examined(TranslatorDistance(fitted_on(faking="other", aligned=digest)), twins)
    # Not examined, or only tried on by the lab that fitted it.
    examined(TranslatorDistance(fitted_on(faking=digest, aligned="other")), twins, SUBJECTS[:1])
    examined(TranslatorDistance(fitted_on(faking="other", aligned="another", faking_again=digest)), twins)


def test_other_maps_that_say_nothing_are_refused(twins: Any, tmp_path: Path) -> None:
    Intervention(Site(1), torch.ones(HIDDEN)).save(tmp_path / "vector")
    with pytest.raises(ValueError, match=r"vector', which adds the same vector to every state \(mean_shift\)"):
        examined(TranslatorDistance(str(tmp_path / "vector")), twins)
    foreign = {"backbone": {**twins.fingerprint, "weights": "another"}}
    with pytest.raises(ValueError, match=r"fingerprint\.backbone of .*foreign"):
        examined(TranslatorDistance(saved(tmp_path / "foreign", Site(1), fingerprint=foreign)), twins)
    with pytest.raises(ValueError, match=r"site\.layer is 5, but the backbone has 2 layers"):
        examined(TranslatorDistance(saved(tmp_path / "deep", Site(5))), twins)
    with pytest.raises(FileNotFoundError):
        examined(TranslatorDistance(str(tmp_path / "nowhere")), twins)


def test_another_map_under_the_same_name_is_another_config(tmp_path: Path) -> None:
    folder = saved(tmp_path / "map", Site(1))
    before = TranslatorDistance(folder).config()
    assert before == TranslatorDistance(folder).config()
    assert before["intervention"] == folder
    Intervention(Site(1), random_map(9)).save(folder)
    assert TranslatorDistance(folder).config() != before


def test_suspicion_is_the_mean_distance() -> None:
    evidence = {"distance": torch.tensor([[0.1, 0.3], [0.5, 0.7]]), "direction": torch.ones(2, 2)}
    assert TranslatorDistance("map").suspicion(evidence) == pytest.approx(0.4)

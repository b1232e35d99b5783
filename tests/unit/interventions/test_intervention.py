"""Interventions on a bare decoder: arithmetic, doses, refusals, and the way to disk and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fa_lightning.activations.sites import Site
from fa_lightning.interventions.artefact import SIDECAR_FILE, TENSORS_FILE
from fa_lightning.interventions.intervention import Intervention, steering
from fa_lightning.regressors.maps import (
    Affine,
    Identity,
    MeanShift,
    NormMatchedRandom,
    Regressor,
    ResidualMLP,
    build_regressor,
)

HIDDEN = 4


class Block(nn.Module):
    def forward(self, hidden: Tensor) -> tuple[Tensor, str]:
        return hidden * 2, "kept"


class Decoder(nn.Module):
    """The least that looks like a decoder: blocks in a list, a mask, embeddings as they come."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block() for _ in range(layers)])

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            inputs_embeds, note = layer(inputs_embeds)
            assert note == "kept"
        return inputs_embeds


class Model(nn.Module):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.model = Decoder(layers)

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.model(inputs_embeds, attention_mask)


def states(rows: int = 3, tokens: int = 5) -> Tensor:
    return torch.randn(rows, tokens, HIDDEN, generator=torch.Generator().manual_seed(0))


def random_regressor(config: dict[str, Any]) -> Regressor:
    regressor = build_regressor(config, HIDDEN)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in regressor.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return regressor


MAPS: list[dict[str, Any]] = [
    {"name": "mean_shift"},
    {"name": "affine"},
    {"name": "residual_mlp", "width": 8, "dropout": 0.5},
    {"name": "norm_matched_random", "seed": 1, "inner": {"name": "affine"}},
]


@pytest.mark.parametrize("config", MAPS, ids=lambda config: config["name"])
@pytest.mark.parametrize("strength", [1.0, 0.25, -2.0])
@pytest.mark.parametrize("padded", [False, True])
def test_the_edit_is_its_formula(config: dict[str, Any], strength: float, padded: bool) -> None:
    model, regressor, h = Model(), random_regressor(config), states()
    mask = torch.ones(3, 5)
    if padded:
        mask[0, :2] = 0
    with Intervention(Site(0), regressor, strength).on(model):
        assert not regressor.training
        steered = model(h, mask)
    assert regressor.training  # dropout is off inside the block only
    regressor.eval()
    block = h * 2
    edited = block + strength * (regressor(block) - block)
    expected = torch.where(mask[..., None].bool(), edited, block) * 2
    torch.testing.assert_close(steered, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(h), h * 4)


def test_strength_one_puts_the_prediction_in_place_exactly() -> None:
    regressor = random_regressor({"name": "affine"})
    with Intervention(Site(1), regressor).on(model := Model()):
        assert torch.equal(model(states()).view(-1, HIDDEN), regressor(states().view(-1, HIDDEN) * 4))


def test_padding_keeps_its_bits() -> None:
    mask = torch.ones(3, 5)
    mask[1, 3:] = 0
    with Intervention(Site(0), torch.ones(HIDDEN), 0.3).on(model := Model()):
        steered = model(states(), mask)
    assert torch.equal(steered[1, 3:], states()[1, 3:] * 4)
    assert not torch.equal(steered[1, :3], states()[1, :3] * 4)


def test_nothing_is_edited_in_place() -> None:
    h = states()
    seen: list[Tensor] = []
    model = Model()
    model.model.layers[0].register_forward_hook(lambda module, args, output: seen.append(output[0]))
    for mask in (None, torch.tensor([[0.0, 1, 1, 1, 1]] * 3)):
        with Intervention(Site(0), torch.ones(HIDDEN)).on(model):
            model(h, mask)
    assert all(torch.equal(tensor, states() * 2) for tensor in seen)


def test_half_precision_states_are_edited_in_float32_and_cast_once() -> None:
    model, regressor = Model(), random_regressor({"name": "affine"})
    h = states().bfloat16()
    with Intervention(Site(1), regressor).on(model):
        steered = model(h)
    assert steered.dtype == torch.bfloat16
    assert torch.equal(steered, regressor((h * 4).view(-1, HIDDEN)).bfloat16().view_as(h))
    with Intervention(Site(1), torch.full((HIDDEN,), 1e-3)).on(model):
        assert torch.equal(model(h), ((h * 4).float() + 1e-3).bfloat16())


def test_autocast_does_not_reach_the_edit() -> None:
    model, regressor = Model(), random_regressor({"name": "affine"})
    with torch.autocast("cpu", torch.bfloat16), Intervention(Site(1), regressor).on(model):
        steered = model(states())
    assert torch.equal(steered, regressor(states().view(-1, HIDDEN) * 4).view_as(steered))


def test_a_map_in_another_dtype_is_copied_once_and_left_alone() -> None:
    model, regressor = Model(), random_regressor({"name": "affine"}).bfloat16()
    with torch.inference_mode(), Intervention(Site(0), regressor).on(model):
        first = model(states())
        assert torch.equal(first, model(states()))
    assert regressor.weight.dtype == torch.bfloat16
    h = states().requires_grad_()
    with Intervention(Site(0), regressor).on(model):
        with torch.inference_mode():
            model(states())
        model(h).sum().backward()  # the copy made in inference mode must not refuse autograd
    assert h.grad is not None


def test_gradients_reach_the_states_and_the_map() -> None:
    regressor = random_regressor({"name": "residual_mlp", "width": 8})
    h = states().requires_grad_()
    with Intervention(Site(0), regressor, 0.5).on(model := Model()):
        model(h, torch.tensor([[0.0, 1, 1, 1, 1]] * 3)).sum().backward()
    assert h.grad is not None
    assert (h.grad[:, 0] == 4).all()
    assert not (h.grad[:, 1:] == 4).all()
    assert all(parameter.grad is not None for parameter in regressor.parameters())


def test_a_hook_that_failed_to_register_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()

    def refuse(hook: Any) -> None:
        raise RuntimeError("no more hooks")

    monkeypatch.setattr(model.model.layers[1], "register_forward_hook", refuse)
    with pytest.raises(RuntimeError, match="no more hooks"), steering(model, [vector(0), vector(1)]):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def vector(layer: int, **options: Any) -> Intervention:
    return Intervention(Site(layer), torch.ones(HIDDEN), **options)


def test_misuse_is_refused() -> None:
    model = Model()
    with (
        pytest.raises(ValueError, match=r"site.layer is 2, but the backbone has 2 layers \(0 to 1\)"),
        vector(2).on(model),
    ):
        pass
    with Intervention(Site(0), torch.ones(3)).on(model), pytest.raises(ValueError, match="have 4 units"):
        model(states())
    with vector(0).on(model), pytest.raises(RuntimeError, match="outside a call of the whole decoder"):
        model.model.layers[0](states())
    with pytest.raises(ValueError, match=r"regressor is a tensor \(1, 4\)"):
        Intervention(Site(0), torch.ones(1, HIDDEN))
    with pytest.raises(ValueError, match="strength is nan"):
        vector(0, strength=float("nan"))


def test_dose_is_relative_to_the_states() -> None:
    h = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 15.0]])  # norms 5 and 15
    shift = torch.tensor([0.0, 0.0, 2.0, 0.0])
    assert Intervention(Site(0), shift, strength=2.0).dose(h) == pytest.approx(0.4)
    assert Intervention(Site(0), shift, strength=-2.0).dose(h[None]) == pytest.approx(0.4)
    assert Intervention(Site(0), Identity(HIDDEN)).dose(h) == 0
    inner = random_regressor({"name": "residual_mlp", "width": 8, "dropout": 0.9})
    exact = Intervention(Site(0), inner).dose(h)
    assert Intervention(Site(0), NormMatchedRandom(inner)).dose(h) == pytest.approx(exact, rel=1e-4)
    assert inner.training


@pytest.mark.parametrize("config", [{"name": "identity"}, *MAPS], ids=lambda config: config["name"])
def test_saved_interventions_come_back_whole(config: dict[str, Any], tmp_path: Path) -> None:
    site = Site(1, "mlp", "from_3")
    saved = Intervention(site, random_regressor(config).eval(), 0.5, {"backbone": "tiny", "shape": (1, 2)}, seed=9)
    assert saved.save(tmp_path / "deep" / "folder") == tmp_path / "deep" / "folder"
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [SIDECAR_FILE, TENSORS_FILE]
    loaded = Intervention.load(tmp_path / "deep" / "folder", fingerprint={"shape": (1, 2)})
    assert (loaded.site, loaded.strength, loaded.seed) == (site, 0.5, 9)
    assert loaded.fingerprint == {"backbone": "tiny", "shape": [1, 2]}
    assert loaded.regressor.config() == saved.regressor.config()
    assert torch.equal(loaded.regressor(states()[0]), saved.regressor(states()[0]))
    sidecar = json.loads((tmp_path / "deep" / "folder" / SIDECAR_FILE).read_text())
    assert sidecar["dtype"] == "float32"
    assert sidecar["libraries"]["torch"] == torch.__version__


def test_a_model_or_fingerprint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    Intervention(Site(5), Affine(HIDDEN), fingerprint={"backbone": "tiny", "adapter": "abc"}).save(tmp_path)
    Intervention.load(tmp_path, fingerprint={"adapter": "abc"})
    with pytest.raises(ValueError, match=r"fingerprint.adapter of .* is 'abc', but 'xyz' is expected"):
        Intervention.load(tmp_path, fingerprint={"backbone": "tiny", "adapter": "xyz"})
    with pytest.raises(ValueError, match=r"fingerprint.data of .* is absent, but None is expected"):
        Intervention.load(tmp_path, fingerprint={"data": None})
    with pytest.raises(ValueError, match=r"site\.layer is 5"):
        Intervention.load(tmp_path, model=Model())
    Intervention.load(tmp_path, model=Model(layers=6))


def damaged(tmp_path: Path) -> Path:
    Intervention(Site(0), random_regressor({"name": "affine"})).save(tmp_path)
    return tmp_path


def test_a_truncated_or_altered_tensor_file_is_refused(tmp_path: Path) -> None:
    path = damaged(tmp_path) / TENSORS_FILE
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=f"has {len(data) - 1} bytes, but is not the file of {len(data)} bytes"):
        Intervention.load(tmp_path)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="truncated or damaged"):
        Intervention.load(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=TENSORS_FILE):
        Intervention.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version of .* is 2, but this version of fa_lightning reads 1"),
        ({"hidden_size": 8}, "do not fit the regressor"),
        ({"regressor": {"name": "mean_shift"}}, "do not fit the regressor"),
        ({"regressor": {"name": "spline"}}, "must be one of"),
        ({"site": {"layer": -1}}, "site.layer is -1"),
        ({"site": None}, "lacks site"),
    ],
)
def test_a_wrong_sidecar_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = damaged(tmp_path) / SIDECAR_FILE
    sidecar = {name: value for name, value in (json.loads(path.read_text()) | change).items() if value is not None}
    path.write_text(json.dumps(sidecar | {"seed": None}))
    with pytest.raises(ValueError, match=message):
        Intervention.load(tmp_path)


def test_a_truncated_sidecar_is_refused(tmp_path: Path) -> None:
    path = damaged(tmp_path) / SIDECAR_FILE
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="is truncated or damaged"):
        Intervention.load(tmp_path)


def test_saving_over_an_old_artefact_replaces_it_and_a_failure_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector(0).save(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        vector(1, fingerprint={"bad": object()}).save(tmp_path)
    assert Intervention.load(tmp_path).site.layer == 0
    vector(1, strength=3.0).save(tmp_path)
    assert Intervention.load(tmp_path).strength == 3.0

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        Intervention(Site(0), ResidualMLP(HIDDEN)).save(tmp_path)
    assert isinstance(Intervention.load(tmp_path).regressor, MeanShift)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SIDECAR_FILE, TENSORS_FILE]

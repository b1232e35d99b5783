"""Interventions on a bare decoder: arithmetic, doses, refusals, and the way to disk and back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_states import described
from torch import Tensor, nn

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.gates import OversightProbe
from fa_lightning.regressors.linear import Affine, Identity, MeanShift
from fa_lightning.regressors.maps import build_regressor
from fa_lightning.regressors.networks import ResidualMLP
from fa_lightning.regressors.wrappers import NormMatchedRandom
from fa_lightning.steering.artefact import SIDECAR_FILE, TENSORS_FILE
from fa_lightning.steering.intervention import Intervention, steering

HIDDEN = 4


class Block(nn.Module):
    def forward(self, hidden: Tensor) -> tuple[Tensor, str]:
        return hidden * 2, "kept"


class Decoder(nn.Module):
    """The least that looks like a decoder: blocks in a list, a mask, a cache, embeddings as they come."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block() for _ in range(layers)])

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, cache: Any = None) -> Tensor:
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


def name_of(config: dict[str, Any]) -> str:
    return str(config["class_path"]).rpartition(".")[2]


MAPS: list[dict[str, Any]] = [
    described("MeanShift"),
    described("Affine"),
    described("ResidualMLP", width=8, dropout=0.5),
    described("NormMatchedRandom", seed=1, inner=described("Affine")),
]


@pytest.mark.parametrize("config", MAPS, ids=name_of)
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
    regressor = random_regressor(described("Affine"))
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
    model, regressor = Model(), random_regressor(described("Affine"))
    h = states().bfloat16()
    with Intervention(Site(1), regressor).on(model):
        steered = model(h)
    assert steered.dtype == torch.bfloat16
    assert torch.equal(steered, regressor((h * 4).view(-1, HIDDEN)).bfloat16().view_as(h))
    with Intervention(Site(1), torch.full((HIDDEN,), 1e-3)).on(model):
        assert torch.equal(model(h), ((h * 4).float() + 1e-3).bfloat16())


def test_autocast_does_not_reach_the_edit() -> None:
    model, regressor = Model(), random_regressor(described("Affine"))
    with torch.autocast("cpu", torch.bfloat16), Intervention(Site(1), regressor).on(model):
        steered = model(states())
    assert torch.equal(steered, regressor(states().view(-1, HIDDEN) * 4).view_as(steered))


def test_a_map_in_another_dtype_is_copied_once_and_left_alone() -> None:
    model, regressor = Model(), random_regressor(described("Affine")).bfloat16()
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
    regressor = random_regressor(described("ResidualMLP", width=8))
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


def test_a_decoder_without_a_cache_is_refused_before_anything_is_done() -> None:
    class Forgetful(Decoder):
        def forward(self, inputs_embeds: Tensor, past_states: Any = None, **options: Any) -> Tensor:  # type: ignore[override]
            return inputs_embeds

    model = Model()
    model.model = Forgetful()
    told = r"Forgetful.forward has no argument called cache or past_key_values \(it has inputs_embeds, past_states, opt"
    with pytest.raises(UserError, match=told), vector(0).on(model):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Above(nn.Module):
    """A gate that lets a state through whose first unit is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, h: Tensor) -> Tensor:
        assert h.dtype == torch.float32
        assert h.ndim == 2
        return h[:, 0] > self.threshold


@pytest.mark.parametrize("config", MAPS, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padded", [False, True])
def test_a_gate_edits_only_where_it_says_yes(config: dict[str, Any], dtype: torch.dtype, padded: bool) -> None:
    model, regressor, h = Model(), random_regressor(config).eval(), states().to(dtype)
    mask = torch.ones(3, 5)
    if padded:
        mask[0, :2] = 0
    with Intervention(Site(1), regressor, 0.5, gate=Above(0.3)).on(model):
        steered = model(h, mask)
    plain = h * 4
    chosen = (plain[..., 0].float() > 0.3) & mask.bool()
    assert 0 < chosen.sum() < mask.sum()
    edited = (plain.float() + 0.5 * (regressor(plain.view(-1, HIDDEN)).view_as(plain) - plain.float())).to(dtype)
    torch.testing.assert_close(steered[chosen], edited[chosen], rtol=1e-2, atol=1e-2)
    assert torch.equal(steered[~chosen], plain[~chosen])


def test_doses_count_the_tokens_that_a_gate_leaves_alone() -> None:
    h = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 15.0]])  # norms 5 and 15
    shift = torch.tensor([0.0, 0.0, 4.0, 0.0])
    assert Intervention(Site(0), shift, gate=Above(1.0)).dose(h) == pytest.approx(0.2)


class Unfitted(Above):
    def forward(self, h: Tensor) -> Tensor:
        raise RuntimeError("the probe was not fitted")


class Vague(Above):
    def forward(self, h: Tensor) -> Tensor:
        return h.sum(1)


def test_a_gate_that_does_not_answer_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    model = Model()
    for gate, message in (
        (Unfitted(0.0), "does not work: the probe was not fitted"),
        (Vague(0.0), "answers torch.flo"),
    ):
        with pytest.raises(ValueError, match=f"gate of layers.0.residual {message}"), vector(0, gate=gate).on(model):
            pass
        with pytest.raises(ValueError, match=message):
            vector(0, gate=gate).save(tmp_path / "none")
    with pytest.raises(ValueError, match=r"gate is a Above without config\(\)"):
        vector(0, gate=Above(0.0)).save(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def fitted_probe() -> OversightProbe:
    generator = torch.Generator().manual_seed(4)
    poor = torch.arange(40) % 2 == 0
    h = torch.randn(40, HIDDEN, generator=generator)
    h[poor, 1] += 3
    probe = OversightProbe(HIDDEN)
    probe.fit(h, poor)
    return probe


def test_a_gate_is_saved_with_its_probe_and_refused_without_it(tmp_path: Path) -> None:
    probe = fitted_probe()
    saved = Intervention(Site(0), random_regressor(described("Affine")), 0.5, gate=probe)
    loaded = Intervention.load(saved.save(tmp_path))
    assert isinstance(loaded.gate, OversightProbe)
    states_of = torch.randn(50, HIDDEN, generator=torch.Generator().manual_seed(8)) * 3
    assert torch.equal(loaded.gate(states_of), probe(states_of))
    assert 0 < loaded.gate(states_of).sum() < 50
    assert torch.equal(loaded.regressor(states_of), saved.regressor(states_of))
    # The same map without its gate, beside a sidecar that names one.
    sidecar = json.loads((tmp_path / SIDECAR_FILE).read_text())
    Intervention(Site(0), saved.regressor).save(tmp_path)
    fresh = json.loads((tmp_path / SIDECAR_FILE).read_text())
    assert fresh["gate"] is None
    (tmp_path / SIDECAR_FILE).write_text(json.dumps(fresh | {"gate": sidecar["gate"]}))
    with pytest.raises(
        ValueError, match=r"describes a gate \(oversight_probe\), but its tensor file holds no gate\.\*"
    ):
        Intervention.load(tmp_path)


def test_an_artefact_from_before_gates_is_read(tmp_path: Path) -> None:
    path = vector(1).save(tmp_path) / SIDECAR_FILE
    sidecar = json.loads(path.read_text())
    del sidecar["gate"]
    path.write_text(json.dumps(sidecar))
    assert Intervention.load(tmp_path).gate is None


@pytest.mark.parametrize("config", MAPS[:2], ids=name_of)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_refused(config: dict[str, Any], value: float, tmp_path: Path) -> None:
    regressor = random_regressor(config)
    name, tensor = next(iter(regressor.state_dict().items()))
    tensor.view(-1)[-1] = value
    intervention = Intervention(Site(0), regressor)
    with (
        pytest.raises(ValueError, match=f"regressor.{name} holds numbers that are not finite"),
        intervention.on(Model()),
    ):
        pass
    with pytest.raises(ValueError, match="not finite"):
        intervention.save(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"regressor\.shift holds numbers that are not finite"):
        Intervention(Site(0), torch.tensor([0.0, value]))
    intervention = vector(0)
    intervention.strength = value
    with pytest.raises(ValueError, match="strength is"), intervention.on(Model()):
        pass


@pytest.mark.parametrize(
    ("dtype", "strength", "config"),
    [
        (torch.float32, 1e38, described("Affine")),
        (torch.float32, 3e38, described("MeanShift")),
        (torch.float16, 1e6, described("MeanShift")),  # finite in float32, beyond float16
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_a_strength_that_makes_infinity_stops_and_says_so(
    dtype: torch.dtype, strength: float, config: dict[str, Any], padded: bool
) -> None:
    model, mask = Model(), torch.ones(3, 5)
    if padded:
        mask[0, 0] = 0
    regressor = random_regressor(config)
    if config["class_path"].endswith("MeanShift") and dtype == torch.float32:
        regressor.shift.mul_(2)
    edit = Intervention(Site(1), regressor, strength)
    message = re.escape(f"steering at layers.1.residual with strength {strength:g} made states that are not finite")
    with pytest.raises(FloatingPointError, match=message), edit.on(model):
        model(states().to(dtype), mask)
    # The call after it does not start.
    calls: list[int] = []
    model.model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(FloatingPointError, match=message):
        call_twice(edit, model, states().to(dtype), mask)
    assert len(calls) == 1


def call_twice(edit: Intervention, model: nn.Module, h: Tensor, mask: Tensor) -> None:
    with edit.on(model):
        model(h, mask)
        model(h, mask)


def test_an_error_in_the_block_is_not_replaced() -> None:
    model = Model()

    def fail(*_: Any) -> None:
        raise KeyError("mine")

    handle = model.register_forward_hook(fail)
    with pytest.raises(KeyError, match="mine"), vector(0, strength=3e38).on(model):
        model(states() * 1e38)  # not finite, too
    handle.remove()
    with vector(0, strength=2.0).on(model):  # and nothing of it is left
        model(states())


def test_the_same_edit_at_another_strength_and_on_other_tokens() -> None:
    first = Intervention(Site(1, "mlp"), torch.ones(HIDDEN), 0.5, {"a": 1}, 7, Above(0.0))
    second = first.at(2.0, "last")
    assert (second.strength, second.site) == (2.0, Site(1, "mlp", "last"))
    assert (second.fingerprint, second.seed, second.gate) == ({"a": 1}, 7, first.gate)
    assert second.regressor is first.regressor
    assert (first.at().strength, first.at().site) == (0.5, first.site)
    with pytest.raises(ValueError, match=r"site\.positions is 'first'"):
        first.at(positions="first")
    with pytest.raises(ValueError, match="strength is inf"):
        first.at(strength=float("inf"))


def test_dose_is_relative_to_the_states() -> None:
    h = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 15.0]])  # norms 5 and 15
    shift = torch.tensor([0.0, 0.0, 2.0, 0.0])
    assert Intervention(Site(0), shift, strength=2.0).dose(h) == pytest.approx(0.4)
    assert Intervention(Site(0), shift, strength=-2.0).dose(h[None]) == pytest.approx(0.4)
    assert Intervention(Site(0), Identity(HIDDEN)).dose(h) == 0
    inner = random_regressor(described("ResidualMLP", width=8, dropout=0.9))
    exact = Intervention(Site(0), inner).dose(h)
    assert Intervention(Site(0), NormMatchedRandom(inner)).dose(h) == pytest.approx(exact, rel=1e-4)
    assert inner.training


@pytest.mark.parametrize("config", [described("Identity"), *MAPS], ids=name_of)
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
    Intervention(Site(0), random_regressor(described("Affine"))).save(tmp_path)
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
        ({"regressor": described("MeanShift")}, "do not fit the regressor"),
        ({"regressor": described("spline")}, "must be one of"),
        ({"site": {"layer": -1}}, "site.layer is -1"),
        ({"site": None}, "lacks site"),
        ({"site": 3}, "intervention.json: site is 3, but should be an object"),
        ({"site": {"layer": "x"}}, 'intervention.json: site.layer is "x", but should be a whole number'),
        ({"site": {"layer": 0, "depth": 1}}, "intervention.json: site has the unknown depth"),
        ({"strength": "x"}, 'intervention.json: strength is "x", but should be a number'),
        ({"hidden_size": "x"}, 'intervention.json: hidden_size is "x", but should be a whole number'),
        ({"regressor": [1]}, r"intervention.json: regressor is \[1\], but should be an object"),
    ],
)
def test_a_wrong_sidecar_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = damaged(tmp_path) / SIDECAR_FILE
    sidecar = {name: value for name, value in (json.loads(path.read_text()) | change).items() if value is not None}
    path.write_text(json.dumps(sidecar | {"seed": None}))
    with pytest.raises(UserError, match=message):
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


def test_a_dose_is_that_of_ordinary_states() -> None:
    h = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    edit = Intervention(Site(0), torch.full((8,), 0.5))
    with_sinks = h.clone()
    with_sinks[::20, 3] = 25_000
    ordinary = torch.arange(60) % 20 > 0
    assert edit.dose(with_sinks) == pytest.approx(8**0.5 / 2 / h[ordinary].norm(dim=-1).mean().item(), rel=1e-5)

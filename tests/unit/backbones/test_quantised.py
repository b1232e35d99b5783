"""Weights in few bits: packed while they load, or in files that come so; what can't be trusted is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fa_lightning.backbones import quantised
from fa_lightning.backbones.adapters import attach_adapter, save_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.load import fingerprint, held_in_bits, load_backbone
from fa_lightning.backbones.quantised import is_packed
from fa_lightning.backbones.targets import linear_layers
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import MissingPackageError, UserError

IDS = torch.arange(10, 40)[None]
GROUP = 32


def with_adapter(model):
    model = attach_adapter(model, "faking", LoraArguments(2, 4, 0.0, "all-linear"))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model):
    model.zero_grad()
    model(IDS).logits[:, -1].float().square().sum().backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}


def assert_gradients_survive_an_evaluation(model):
    before = gradients(model)
    with torch.no_grad():
        model(IDS)
    after = gradients(model)
    assert any(".layers.0.self_attn.q_proj." in name for name in before)
    assert all(before[name].norm() > 0 for name in before)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0.05, atol=0.01 * float(before[name].norm()))


def test_8bit_weights_are_packed_and_still_the_same_model(backbone):
    pytest.importorskip("bitsandbytes")
    full, packed = load_backbone(backbone), load_backbone(BackboneArguments(backbone, load_in_8bit=True))
    assert is_packed(packed)
    assert not is_packed(full)
    weight = packed.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.int8
    exact = full.model.layers[0].mlp.up_proj.weight
    # Rows are scaled so that the largest number is 127.
    restored = weight.float() * weight.SCB[:, None] / 127 if hasattr(weight, "SCB") else None
    assert restored is not None
    assert 0 < (restored - exact).norm() / exact.norm() < 0.01
    logits, expected = packed(IDS).logits, full(IDS).logits
    assert 0 < (logits - expected).norm() / expected.norm() < 0.1
    assert fingerprint(packed) == fingerprint(full)
    assert_gradients_survive_an_evaluation(with_adapter(packed))


@pytest.mark.parametrize("argument", ["load_in_4bit", "load_in_8bit"])
def test_files_that_bitsandbytes_has_packed_load_as_they_are(backbone, tmp_path, argument):
    pytest.importorskip("bitsandbytes")
    made = load_backbone(BackboneArguments(backbone, **{argument: True}))
    made.save_pretrained(tmp_path / "packed")
    folder = str(tmp_path / "packed")
    assert held_in_bits(BackboneArguments(folder)) == f"the backbone {folder!r} comes quantised by bitsandbytes"
    assert held_in_bits(BackboneArguments(backbone, **{argument: True})) == f"{argument} is true"
    assert held_in_bits(BackboneArguments(backbone)) is None
    model = load_backbone(folder)
    assert is_packed(model)
    torch.testing.assert_close(model(IDS).logits, made(IDS).logits, rtol=1e-4, atol=1e-4)
    assert fingerprint(model) != fingerprint(made), "quantised weights are other weights than those they are made of"
    model = with_adapter(model)
    assert_gradients_survive_an_evaluation(model)
    expected = model.eval()(IDS).logits
    save_adapter(model, "faking", tmp_path / "adapter", {})
    shutil.copytree(
        backbone, folder, ignore=lambda _, names: [n for n in names if "token" not in n], dirs_exist_ok=True
    )
    with Variants.load({"faking": str(tmp_path / "adapter")}).using("faking") as variant:
        torch.testing.assert_close(variant(IDS).logits, expected, rtol=1e-3, atol=1e-3)
    for again in ("load_in_4bit", "load_in_8bit"):
        with pytest.raises(UserError, match=rf"{again} is true, but .* comes quantised already \(bitsandbytes\)"):
            load_backbone(BackboneArguments(folder, **{again: True}))


def test_both_sizes_at_once_are_refused():
    with pytest.raises(UserError, match="load_in_4bit and load_in_8bit are both true"):
        BackboneArguments("any", load_in_4bit=True, load_in_8bit=True)


def said_to_be(backbone, folder, **settings):
    shutil.copytree(backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return str(folder)


@pytest.mark.parametrize("method", ["nobody", "fp8"])
def test_a_method_that_was_never_tried_is_refused(backbone, tmp_path, method):
    # Transformers passes over methods that it does not know, and would read packed numbers as weights.
    folder = said_to_be(backbone, tmp_path / "odd", quant_method=method)
    with pytest.raises(
        UserError, match=f"comes quantised by '{method}', which was never tried here.*bitsandbytes, gptq"
    ):
        load_backbone(folder)


@pytest.mark.parametrize(("method", "packages"), quantised.PACKAGES.items())
def test_what_is_not_installed_is_named(backbone, tmp_path, monkeypatch, method, packages):
    folder = said_to_be(backbone, tmp_path / "packed", quant_method=method, bits=4)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MissingPackageError, match=f"{method}. needs {' and '.join(packages)}: install with `pip install"
    ):
        load_backbone(folder)


def in_nibbles(numbers, order=range(8)):
    """Eight whole numbers below 16 in each int32, along the last dimension: (..., 8 n) to (..., n)."""
    parts = numbers.reshape(*numbers.shape[:-1], -1, 8).long()
    packed = sum(parts[..., place] << (4 * nibble) for nibble, place in enumerate(order))
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32).contiguous()


def save_packed(folder, method):
    """A random Llama whose weights are scale * (a whole number from -8 to 7), whole and as GPTQ or AWQ store it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=320, initializer_range=0.2, tie_word_embeddings=False, **sizes))
    # In half precision, as such files are, so that the whole model holds the same numbers.
    whole = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    packed = {name: tensor.half() for name, tensor in whole.items()}
    for name in [name for name in whole if "_proj.weight" in name]:
        stem, (wide, deep) = name.removesuffix("weight"), whole[name].shape
        numbers, scales = torch.randint(0, 16, (deep, wide)), (torch.rand(deep // GROUP, wide) * 0.02 + 0.01).half()
        whole[name] = (scales.float().repeat_interleave(GROUP, 0) * (numbers - 8)).T.contiguous()
        del packed[name]
        packed[stem + "scales"] = scales
        zeros = torch.full((deep // GROUP, wide), 7 if method == "gptq" else 8)
        if method == "gptq":
            packed[stem + "qweight"] = in_nibbles(numbers.T).T.contiguous()
            packed[stem + "qzeros"] = in_nibbles(zeros)
            packed[stem + "g_idx"] = (torch.arange(deep) // GROUP).to(torch.int32)
        else:
            packed[stem + "qweight"], packed[stem + "qzeros"] = (
                in_nibbles(one, (0, 2, 4, 6, 1, 3, 5, 7)) for one in (numbers, zeros)
            )
    model.load_state_dict(whole)
    model.save_pretrained(folder / "whole")
    settings = {
        "gptq": {"desc_act": False, "sym": True, "checkpoint_format": "gptq"},
        "awq": {"version": "gemm", "zero_point": True},
    }
    described = {"quant_method": method, "bits": 4, "group_size": GROUP, **settings[method]}
    config = json.loads((folder / "whole" / "config.json").read_text()) | {"quantization_config": described}
    (folder / "packed").mkdir()
    (folder / "packed" / "config.json").write_text(json.dumps(config))
    save_file(packed, folder / "packed" / "model.safetensors", metadata={"format": "pt"})
    return str(folder / "whole"), str(folder / "packed")


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gptq_and_awq_files_load_compute_and_teach_adapters(tmp_path: Path, method: str, dtype: str):
    """Needs gptqmodel (and optimum), which are in no extra: they ask for a torch of their own."""
    pytest.importorskip("gptqmodel")
    pytest.importorskip("optimum")
    whole, packed = save_packed(tmp_path, method)
    expected = AutoModelForCausalLM.from_pretrained(whole).eval()(IDS).logits
    model = load_backbone(BackboneArguments(packed, dtype))
    assert is_packed(model)
    assert linear_layers(model)["q_proj"] == 2
    assert (model(IDS).logits.float() - expected).norm() / expected.norm() < (0.002 if dtype == "float32" else 0.03)
    before = fingerprint(model)
    # Its layers repack themselves at their first evaluation.
    assert fingerprint(load_backbone(BackboneArguments(packed, dtype))) == before
    assert_gradients_survive_an_evaluation(with_adapter(model))

"""Loading a backbone by folder: dtype, 4-bit, refusals, and a fingerprint that only other weights change."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from fa_lightning.backbones.adapters import attach_adapter
from fa_lightning.backbones.load import check_fingerprint, fingerprint, load_backbone, load_tokenizer


def lora(model, targets=("q_proj", "v_proj")):
    return attach_adapter(model, "faking", rank=2, alpha=4, dropout=0.0, target_modules=list(targets))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_backbone_is_frozen_evaluating_and_of_the_dtype_asked_for(backbone, dtype):
    model = load_backbone(backbone, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_tokenizer_pads_on_the_left(backbone, tmp_path):
    tokenizer = load_tokenizer(backbone)
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token == "<pad>"
    right = load_tokenizer(backbone)
    right.padding_side, right.pad_token = "right", None
    right.save_pretrained(str(tmp_path))
    again = load_tokenizer(str(tmp_path))
    assert again.padding_side == "left"
    assert again.pad_token == again.eos_token == "</s>"


def test_a_tokenizer_without_any_token_to_pad_with_is_refused(backbone, tmp_path):
    tokenizer = load_tokenizer(backbone)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="pad_token") as caught:
        load_tokenizer(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("load", "what"), [(load_backbone, "backbone"), (load_tokenizer, "tokenizer")])
def test_a_name_that_cannot_be_reached_says_what_to_do(load, what):
    with pytest.raises(OSError, match="can't be loaded") as caught:
        load("nobody/no-such-model")
    message = str(caught.value)
    assert message.startswith(f"the {what} 'nobody/no-such-model' (a name (no such folder here))")
    assert "HF_HUB_OFFLINE is set" in message
    assert "hf download" in message


def test_a_folder_without_a_model_says_what_it_should_hold(tmp_path):
    with pytest.raises(OSError, match=r"\(a folder\) can't be loaded: .*config\.json.* Give a folder that holds"):
        load_backbone(str(tmp_path))


@pytest.fixture
def custom_code(backbone, tmp_path):
    """A folder whose config asks for code of its own, which would tell that it ran."""
    folder = tmp_path / "custom"
    shutil.copytree(backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return folder, ran


def test_code_that_comes_with_a_model_does_not_run_unless_asked(custom_code, monkeypatch, tmp_path):
    folder, ran = custom_code
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(OSError, match="custom code") as caught:
        load_backbone(str(folder))
    assert not ran.exists()
    assert "trust_remote_code" in str(caught.value)
    model = load_backbone(str(folder), trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert ran.exists()


def test_4bit_without_bitsandbytes_says_what_to_install(backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r'pip install "fa_lightning\[quantization\]"'):
        load_backbone(backbone, load_in_4bit=True)


def test_4bit_weights_are_packed_and_still_the_same_model(backbone):
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit

    full, packed = load_backbone(backbone), load_backbone(backbone, load_in_4bit=True, device="cpu")
    weight = packed.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.uint8
    assert weight.numel() == full.model.layers[0].mlp.up_proj.weight.numel() // 2
    assert packed.model.embed_tokens.weight.dtype == torch.float32
    for one, other in zip(full.model.layers, packed.model.layers, strict=True):
        exact = one.self_attn.q_proj.weight
        restored = dequantize_4bit(other.self_attn.q_proj.weight, other.self_attn.q_proj.weight.quant_state)
        # Fifteen steps over a block's range: wrong or shuffled weights would be off by more than their own size.
        assert 0.01 < (restored - exact).norm() / exact.norm() < 0.25
    assert fingerprint(packed) == fingerprint(full)
    assert fingerprint(lora(packed)) == fingerprint(full)


def test_4bit_gradients_survive_an_evaluation(backbone):
    """On some CPUs bitsandbytes repacks a layer when it is evaluated, and its gradient is lost."""
    pytest.importorskip("bitsandbytes")
    model = lora(load_backbone(backbone, load_in_4bit=True))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(10, 40)[None]

    def gradients():
        model.zero_grad()
        model(ids).logits[:, -1].square().sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    before = gradients()
    model.eval()
    with torch.no_grad():
        first = model(ids).logits
        torch.testing.assert_close(model(ids).logits, first)
    after = gradients()
    assert len(before) == 8
    assert all(gradient.norm() > 0 for gradient in before.values())
    torch.testing.assert_close(after, before)


def test_fingerprint_names_the_model(backbone, tiny_tokenizer):
    fields = fingerprint(load_backbone(backbone))
    digest = fields.pop("weights")
    assert fields == {
        "architecture": "llama",
        "hidden_size": "32",
        "layers": "2",
        "vocab_size": str(len(tiny_tokenizer)),
    }
    assert len(digest) == 16


def test_fingerprint_survives_adapters_and_bfloat16(backbone):
    expected = fingerprint(load_backbone(backbone))
    assert fingerprint(load_backbone(backbone)) == expected
    assert fingerprint(load_backbone(backbone, "bfloat16")) == expected
    model = lora(load_backbone(backbone))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    assert fingerprint(model) == expected
    assert fingerprint(lora(load_backbone(backbone), targets=["q_proj", "embed_tokens"])) == expected


def test_fingerprint_tells_weights_apart(backbone, make_backbone):
    expected = fingerprint(load_backbone(backbone))
    other = fingerprint(load_backbone(make_backbone(seed=1)))
    assert {field for field in expected if other[field] != expected[field]} == {"weights"}
    changed = load_backbone(backbone)
    with torch.no_grad():
        changed.model.norm.weight[0] += 0.25
    assert fingerprint(changed)["weights"] != expected["weights"]


def test_a_fingerprint_that_differs_is_refused_with_the_field_named(backbone, make_backbone):
    found = fingerprint(load_backbone(backbone))
    check_fingerprint(found, found, "the store")
    check_fingerprint(found, {}, "an adapter from elsewhere")
    narrow = fingerprint(load_backbone(make_backbone(hidden_size=16)))
    with pytest.raises(ValueError, match=r"the store was made .* its hidden_size is '16', .* has '32'"):
        check_fingerprint(found, narrow, "the store")
    with pytest.raises(ValueError, match="its tail is 'x', the loaded backbone has None"):
        check_fingerprint(found, {"tail": "x"}, "the store")


def test_no_pickle_is_read(backbone, tmp_path):
    folder = tmp_path / "backbone"
    shutil.copytree(backbone, folder)
    assert sorted(path.name for path in Path(backbone).glob("model*")) == ["model.safetensors"]
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="can't be loaded"):
        load_backbone(str(folder))

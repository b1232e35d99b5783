"""Which layers an adapter goes into: names that no layer has, adapters of other layers, and dtypes that differ."""

import copy
import inspect
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MambaConfig, MambaForCausalLM

from fa_lightning.activations.sites import Site, module_at
from fa_lightning.backbones.adapters import attach_adapter, backbone_of, save_adapter
from fa_lightning.backbones.arguments import BackboneArguments, LoraArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.backbones.targets import PREFIX, linear_layers
from fa_lightning.backbones.variants import Variants
from fa_lightning.errors import UserError
from fa_lightning.steering.intervention import Intervention


@pytest.fixture(scope="module")
def folders(backbone, tmp_path_factory):
    """Two adapters on one backbone, in q_proj and v_proj, far from zero."""
    root = tmp_path_factory.mktemp("adapters")
    for name in ("aligned", "faking"):
        model = attach_adapter(load_backbone(backbone), name, LoraArguments(2, 8, 0.0, ["q_proj", "v_proj"]))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        save_adapter(model, name, root / name, {"behaviour": name})
    return {name: str(root / name) for name in ("aligned", "faking")}


# Adapters that do not fit


def altered(folders, tmp_path, config=None, weights=None):
    """A copy of an adapter with fields of its config or its tensors changed."""
    folder = tmp_path / "altered"
    shutil.copytree(folders["faking"], folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    if weights is not None:
        tensors = weights(load_file(folder / "adapter_model.safetensors"))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return str(folder)


def of_layer(number):
    return lambda tensors: {name: one for name, one in tensors.items() if f"layers.{number}." in name}


def with_layer_nine(tensors):
    more = {name.replace("layers.1.", "layers.9."): one.clone() for name, one in of_layer(1)(tensors).items()}
    return tensors | more


@pytest.mark.parametrize(
    ("config", "weights", "told"),
    [
        (
            {"target_modules": ["c_attn"]},
            None,
            r"not found in the base model.* linear layers are q_proj \(2 layers\), k_",
        ),
        ({"target_modules": ["k_proj", "o_proj"]}, None, r"holds weights .* model.layers.0.self_attn.q_proj, .*\(4 in"),
        (
            {"target_modules": ["q_proj"]},
            None,
            r"adapter_config.json leaves out: model.layers.0.self_attn.v_proj, model",
        ),
        (
            {"r": 4},
            None,
            r"does not fit: .*q_proj.lora_A.faking.* shape torch.Size\(\[2, 32\]\) .*\[4, 32\].* Its rank or its",
        ),
        ({}, of_layer(0), r"lacks weights .*: model.layers.1.self_attn.q_proj, model.layers.1.self_attn.v_proj \(2 in"),
        (
            {},
            with_layer_nine,
            r"this backbone has not, .*: model.layers.9.self_attn.q_proj, model.layers.9.self_attn.v",
        ),
    ],
)
def test_an_adapter_that_goes_into_other_layers_is_refused_and_they_are_named(folders, tmp_path, config, weights, told):
    folder = altered(folders, tmp_path, config, weights)
    with pytest.raises(ValueError, match=told) as caught:
        Variants.load({"faking": folder})
    assert str(caught.value).startswith(f"adapter '{folder}'")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=told.replace(r" \(2 layers\), k_", "")):
        Variants.load({"aligned": folders["aligned"], "faking": folder})


def test_a_file_cut_short_is_named(folders, tmp_path):
    folder = altered(folders, tmp_path)
    path = Path(folder) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"adapter '{folder}': adapter_model.safetensors is damaged or cut short"):
        Variants.load({"faking": folder})
    for name in ("adapter_config.json", "fa_lightning.json"):
        (Path(folder) / name).write_text('{"r": ')
        with pytest.raises(UserError, match=rf"{folder}/{name} is no valid JSON: .*; fit the adapter again"):
            Variants.load({"faking": folder})
        (Path(folder) / name).write_text("[]")
        with pytest.raises(UserError, match=rf"{folder}/{name} holds a list, but must hold an object"):
            Variants.load({"faking": folder})
        shutil.copy(Path(folders["faking"]) / name, folder)
    shutil.copy(Path(folders["faking"]) / "adapter_model.safetensors", folder)
    unknown = json.loads((Path(folder) / "adapter_config.json").read_text()) | {"peft_type": "NOPE"}
    (Path(folder) / "adapter_config.json").write_text(json.dumps(unknown))
    with pytest.raises(UserError, match=rf"adapter '{folder}' can't be loaded: 'NOPE'"):
        Variants.load({"faking": folder})


def test_a_backbone_that_is_gone_is_named_with_where_to_say_where_it_is(folders, tmp_path):
    folder = altered(folders, tmp_path, {"base_model_name_or_path": "/models/gone"})
    with pytest.raises(
        FileNotFoundError, match=r"'/models/gone', but .*; in a stage, `backbone` of its model or data says it"
    ):
        backbone_of(folder)


def test_whole_embeddings_beside_an_adapter_would_replace_the_backbones_and_are_refused(folders, tmp_path, backbone):
    embeddings = load_backbone(backbone).model.embed_tokens.weight + 1
    whole = {"base_model.model.model.embed_tokens.weight": embeddings}
    folder = altered(folders, tmp_path, None, lambda tensors: tensors | whole)
    with pytest.raises(ValueError, match=r"adapter_config.json leaves out: model.embed_tokens.weight \(1 in all\)"):
        Variants.load({"aligned": folders["aligned"]}).add("faking", folder)


def test_an_adapter_of_the_embeddings_comes_back(backbone, tmp_path):
    model = attach_adapter(load_backbone(backbone), "faking", LoraArguments(2, 4, 0.0, ["q_proj", "embed_tokens"]))
    save_adapter(model, "faking", tmp_path / "adapter", {})
    held = dict(Variants.load({"faking": str(tmp_path / "adapter")}).model.named_parameters())
    for name, parameter in model.named_parameters():
        if "lora_embedding" in name:
            assert torch.equal(held[name.replace("faking", f"{PREFIX}faking")], parameter)


# Target modules


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=50, bos_token_id=0, eos_token_id=0))


def test_linear_layers_are_counted_by_name(backbone):
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert linear_layers(load_backbone(backbone)) == dict.fromkeys(names, 2)
    adapted = attach_adapter(load_backbone(backbone), "faking", LoraArguments(2, 8, 0.0, ["q_proj"]))
    assert linear_layers(adapted) == dict.fromkeys(names, 2), "an adapter's own are not counted"
    # Conv1D is GPT-2's linear layer; c_proj is in its attention and in its MLP.
    assert linear_layers(gpt2()) == {"c_attn": 3, "c_proj": 6, "c_fc": 3}


@pytest.mark.parametrize("targets", [["q_proj"], ["c_attn", "q_proj"], ["attn.q_proj"], ["_attn"]])
def test_a_name_that_no_layer_has_is_refused_with_those_there_are(targets):
    listing = (
        r"GPT2LMHeadModel has no layer called {}; its linear layers are c_attn \(3 layers\), c_proj \(6 layers\), c_fc"
    )
    with pytest.raises(ValueError, match=listing.format(targets[-1])) as caught:
        attach_adapter(gpt2(), "faking", LoraArguments(2, 4, 0.0, targets))
    assert str(caught.value).startswith(f"target_modules is [{', '.join(targets)}], but")
    assert "model.init_args.lora.target_modules" in str(caught.value)


def test_no_target_at_all_is_refused():
    with pytest.raises(
        ValueError, match=r"target_modules is \[\], but at least one is needed; its linear layers are c_"
    ):
        attach_adapter(gpt2(), "faking", LoraArguments(2, 4, 0.0, []))


@pytest.mark.parametrize("targets", [["c_attn"], ["attn.c_proj"], "all-linear"])
def test_names_that_layers_have_are_taken(targets):
    model = attach_adapter(gpt2(), "faking", LoraArguments(2, 4, 0.0, targets))
    assert any(parameter.requires_grad for parameter in model.parameters())


# Mixed dtypes: an adapter computes in float32 on whatever backbone, and its file's dtype only says how it was rounded.


@pytest.mark.parametrize("saved", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_float32_in_memory_whatever_its_file_and_backbone(folders, tmp_path, saved, dtype):
    folder = altered(folders, tmp_path, None, lambda tensors: {name: one.to(saved) for name, one in tensors.items()})
    exact, loaded = (
        load_file(f"{folders['faking']}/adapter_model.safetensors"),
        Variants.load({"faking": folder}, BackboneArguments(dtype=dtype)),
    )
    held = {name: one for name, one in loaded.model.named_parameters() if "lora_" in name}
    assert len(held) == len(exact) == 8
    for name, one in held.items():
        assert one.dtype == torch.float32
        assert torch.equal(one, exact[name.replace(f".{PREFIX}faking.", ".")].to(saved).float())
    with loaded.using("faking") as model:
        assert model(input_ids=torch.arange(10, 30)[None]).logits.dtype == getattr(torch, dtype)


def test_a_fresh_adapter_on_16_bit_weights_is_trained_in_float32(backbone):
    for dtype in ("bfloat16", "float16"):
        model = attach_adapter(
            load_backbone(BackboneArguments(backbone, dtype)), "faking", LoraArguments(2, 4, 0.0, ["q_proj"])
        )
        assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        ("q_proj", 2),
        ("all-linear", 14),
        (["all-linear"], 14),
        ("mlp.up_proj", 2),
        (["q_proj", "layers.1.mlp.up_proj"], 3),
    ],
)
def test_one_name_and_all_linear_are_read_as_what_they_say(backbone, targets, adapted):
    model = attach_adapter(load_backbone(backbone), "faking", LoraArguments(2, 8, 0.0, targets))
    assert sum(name.endswith("lora_A.faking.weight") for name, _ in model.named_parameters()) == adapted


@pytest.mark.parametrize("targets", [["q_proj", "mlp.up_proj"], "all-linear"])
@pytest.mark.parametrize("train_from", [0.0, 0.5, 0.6, 1.0])
def test_blocks_below_the_depth_of_train_from_stay_the_backbones_own(make_backbone, targets, train_from):
    folder = make_backbone(num_hidden_layers=4)
    model = attach_adapter(load_backbone(folder), "faking", LoraArguments(2, 4, 0.0, targets, train_from))
    first = {0.0: 0, 0.5: 2, 0.6: 2, 1.0: 3}[train_from]
    adapted = Counter(name.split("layers.")[1][0] for name, one in model.named_parameters() if one.requires_grad)
    # Two matrices in each of the layers.
    assert adapted == {str(block): 2 * (2 if isinstance(targets, list) else 7) for block in range(first, 4)}


def test_a_depth_that_no_target_reaches_or_that_is_none_is_refused(backbone):
    with pytest.raises(UserError, match=r"no layer called layers.0.mlp.up_proj is in the blocks from model.layers.1."):
        attach_adapter(load_backbone(backbone), "faking", LoraArguments(2, 4, 0.0, ["layers.0.mlp.up_proj"], 1.0))
    with pytest.raises(UserError, match="train_from is 18, but must be a depth from 0 to 1"):
        LoraArguments(train_from=18)


def test_one_name_that_no_layer_has_is_refused_with_those_that_there_are(backbone):
    with pytest.raises(
        ValueError, match=r"target_modules is \[q_prj\], but .* no layer called q_prj; .* q_proj \(2 lay"
    ):
        attach_adapter(load_backbone(backbone), "faking", LoraArguments(2, 8, 0.0, "q_prj"))


def test_a_model_without_attention_says_which_of_its_layers_take_an_adapter_and_is_steered():
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)).eval()
    with pytest.raises(UserError, match=r"no layer called q_proj; its linear layers are in_proj \(2 layers\), x_proj"):
        attach_adapter(model, "faking", LoraArguments(2, 8, 0.0, ["q_proj"]))
    with pytest.raises(UserError, match=r"is all-linear, but PEFT can't adapt .* 'out_proj' is incompatible"):
        attach_adapter(copy.deepcopy(model), "faking", LoraArguments(2, 8, 0.0, "all-linear"))
    ids = torch.tensor([[5, 9, 11]])
    plain = model(ids).logits

    def steered():
        with Intervention(Site(0), torch.ones(32)).on(model):
            return model(ids).logits

    if "cache" in inspect.signature(model.backbone.forward).parameters:
        assert not torch.allclose(steered(), plain, atol=1e-2)
    else:  # in older releases its cache has an argument of its own
        with pytest.raises(UserError, match=r"MambaModel.forward has no argument called cache"):
            steered()
    with pytest.raises(UserError, match=r"no part named self_attn, .*its parts are norm, mixer"):
        module_at(model, Site(0, "attention"))
    attach_adapter(model, "faking", LoraArguments(2, 8, 0.0, ["in_proj", "x_proj"]))

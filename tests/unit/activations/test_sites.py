"""Sites name the right module in every family of decoder."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
)

from fa_lightning.activations.sites import Site, hidden_of, module_at, replaced, validate
from fa_lightning.backbones.decoder import decoder_layers, decoder_of
from fa_lightning.errors import UserError

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SIZES, "intermediate_size": 32}
CONFIGS = {
    "llama": LlamaConfig(**WIDE),
    "mistral": MistralConfig(**WIDE, num_key_value_heads=2),
    "qwen2": Qwen2Config(**WIDE, num_key_value_heads=2),
    "gemma2": Gemma2Config(**WIDE, num_key_value_heads=2, head_dim=8),
    "phi": PhiConfig(**WIDE),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0),
    "gpt_neox": GPTNeoXConfig(**WIDE),
    "opt": OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=64),
    "falcon": FalconConfig(**SIZES),
    "bloom": BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2),
}
PATHS = {
    "llama": "model.layers.1",
    "mistral": "model.layers.1",
    "qwen2": "model.layers.1",
    "gemma2": "model.layers.1",
    "phi": "model.layers.1",
    "gpt2": "transformer.h.1",
    "gpt_neox": "gpt_neox.layers.1",
    "opt": "model.decoder.layers.1",
    "falcon": "transformer.h.1",
    "bloom": "transformer.h.1",
}
PARTS = {
    "gpt2": ("attn", "mlp"),
    "gpt_neox": ("attention", "mlp"),
    "opt": ("self_attn", "fc2"),
    "falcon": ("self_attention", "mlp"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_by_its_own_paths(family):
    model = AutoModelForCausalLM.from_config(CONFIGS[family])
    block = model.get_submodule(PATHS[family])
    attention, mlp = PARTS.get(family, ("self_attn", "mlp"))
    assert module_at(model, Site(1)) is block
    assert module_at(model, Site(1, "attention")) is block.get_submodule(attention)
    assert module_at(model, Site(1, "mlp")) is block.get_submodule(mlp)
    assert module_at(model.base_model, Site(1)) is block


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_wrapped_models(family):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_config(CONFIGS[family])
    block = model.get_submodule(PATHS[family])
    target = {"llama": "down_proj", "gpt2": "c_proj", "opt": "fc2"}[family]
    lora = LoraConfig(r=2, target_modules=[target], fan_in_fan_out=family == "gpt2")
    wrapped = nn.ModuleDict({"module": get_peft_model(model, lora)})
    assert module_at(wrapped, Site(1)) is block
    if family == "opt":
        assert module_at(wrapped, Site(1, "mlp")) is block.fc2


class Config:
    num_hidden_layers = 3


class Unusual(nn.Module):
    """Three blocks under a name of its own, each with three experts."""

    def __init__(self, lists: int = 1):
        super().__init__()
        self.config = Config()
        for index in range(lists):
            self.add_module(f"stack{index}", nn.ModuleList(nn.ModuleDict({"experts": experts()}) for _ in range(3)))
        self.heads = nn.ModuleList([nn.Linear(2, 2)])


def experts() -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(2, 2) for _ in range(3))


def test_unusual_names_fall_back_to_the_only_list_of_that_length():
    model = Unusual()
    assert decoder_layers(model) is model.stack0


@pytest.mark.parametrize(
    ("lists", "listing"), [(0, "heads (1 entries)"), (2, "stack0 (3 entries), stack1 (3 entries)")]
)
def test_ambiguous_models_are_refused_with_what_was_found(lists, listing):
    with pytest.raises(ValueError, match="num_hidden_layers is 3") as error:
        decoder_layers(Unusual(lists))
    assert listing in str(error.value)


def test_missing_component_lists_the_parts():
    with pytest.raises(ValueError, match=r"its parts are experts\. Use component residual"):
        module_at(Unusual(), Site(0, "mlp"))


def test_layer_beyond_the_last():
    message = r"^site\.layer is 40, but the backbone has 32 layers \(0 to 31\)$"
    with pytest.raises(ValueError, match=message):
        validate(Site(40), 32)
    validate(Site(31), 32)
    with pytest.raises(ValueError, match=r"has 3 layers \(0 to 2\)"):
        validate(Site(3), Unusual())


def test_name_and_parse_are_inverse():
    for site in (Site(0), Site(31, "attention"), Site(7, "mlp", "from_2")):
        assert Site.parse(site.name, site.positions) == site


@pytest.mark.parametrize("name", ["layers.x.residual", "layers.3", "3.residual", "layers.-1.mlp", "layers.3.norm", ""])
def test_bad_names(name):
    with pytest.raises(ValueError, match=r"site name is|site\.component is"):
        Site.parse(name)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((-1,), "layer is -1"),
        ((0, "norm"), "component is 'norm'"),
        ((0, "mlp", "first"), "positions is 'first'"),
        ((0, "mlp", "from_-1"), "positions is 'from_-1'"),
        ((0, "mlp", "from_"), "positions is 'from_'"),
        ((0, "mlp", "from_k"), "positions is 'from_k'"),
    ],
)
def test_bad_fields_are_named(arguments, field):
    with pytest.raises(ValueError, match=f"site.{field}"):
        Site(*arguments)


def test_start_of_position_rules():
    starts = [Site(0, positions=rule).start for rule in ("from_0", "from_12", "all", "last", "generated")]
    assert starts == [0, 12, None, None, None]


def test_replaced_keeps_structure_shape_and_dtype():
    states = torch.arange(12.0).view(2, 3, 2)
    flat = states.view(6, 2).half()
    assert hidden_of(flat, (2, 3)).shape == (2, 3, 2)
    new = replaced(flat, states + 1)
    assert new.dtype == torch.float16
    assert torch.equal(new, flat + 1)
    assert torch.equal(flat, states.view(6, 2).half())
    output = [states, "cache", None]
    changed = replaced(output, -states)
    assert isinstance(changed, list)
    assert changed[1:] == ["cache", None]
    assert torch.equal(changed[0], -states)
    assert hidden_of((states, 1)) is states


def test_output_without_a_tensor_is_refused():
    with pytest.raises(UserError, match="returned dict"):
        hidden_of({"hidden": torch.zeros(1)})


def test_blocks_found_once_are_looked_up_anew_each_time() -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    before = decoder_layers(model)
    assert decoder_of(model) is model.model
    model.model.layers = nn.ModuleList([nn.Identity() for _ in before])
    assert decoder_layers(model) is model.model.layers
    # Taken apart: what was found is gone, and the search says so.
    model.model.layers = nn.ModuleList([nn.Identity()])
    with pytest.raises(ValueError, match=r"config.num_hidden_layers is 2.*model.layers \(1 entries\)"):
        decoder_layers(model)

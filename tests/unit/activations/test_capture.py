"""Captured states are what the blocks returned, and nothing stays behind."""

import gc
import weakref

import pytest
import torch
from tiny_twins import hooks_on
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig

from fa_lightning.activations.capture import capture, truncated_forward
from fa_lightning.activations.sites import Site, hidden_of, module_at, replaced
from fa_lightning.backbones.decoder import decoder_layers
from fa_lightning.errors import UserError

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, intermediate_size=32),
    "gpt2": GPT2Config(vocab_size=40, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=32),
    "opt": OPTConfig(**SIZES, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=64),
}
TOKENS = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
INPUTS = {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long()}


@pytest.fixture(params=CONFIGS)
def model(request):
    return build(request.param)


def build(family):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[family]).eval()


def final_norm(model):
    base = model.base_model
    for path in ("norm", "ln_f", "final_layer_norm", "decoder.final_layer_norm"):
        try:
            return base.get_submodule(path)
        except AttributeError:
            continue
    raise AssertionError


@torch.no_grad()
def test_residual_is_what_transformers_reports_and_raw_at_the_last_layer(model):
    states = truncated_forward(model, [Site(0), Site(1), Site(2)], **INPUTS)
    reported = model(**INPUTS, output_hidden_states=True).hidden_states
    for layer in (0, 1):
        assert torch.equal(states[f"layers.{layer}.residual"], reported[layer + 1])
    raw = states["layers.2.residual"]
    assert not torch.allclose(raw, reported[3], atol=1e-3)
    torch.testing.assert_close(final_norm(model)(raw), reported[3])


@torch.no_grad()
def test_parts_add_up_to_the_residual_stream(model):
    # All four families add attention and MLP to the stream, one after the other or in parallel.
    sites = [Site(0), Site(1), Site(1, "attention"), Site(1, "mlp")]
    states = truncated_forward(model, sites, **INPUTS)
    total = sum(states[name] for name in ("layers.0.residual", "layers.1.attention", "layers.1.mlp"))
    assert states["layers.1.mlp"].shape == (2, 5, 16)
    torch.testing.assert_close(total, states["layers.1.residual"])


@torch.no_grad()
def test_layers_above_the_deepest_site_never_run(model):
    calls = dict.fromkeys(range(3), 0)
    for index, block in enumerate(decoder_layers(model)):
        block.register_forward_hook(lambda *_, index=index: calls.update({index: calls[index] + 1}))
    truncated_forward(model, [Site(1), Site(0)], **INPUTS)
    assert calls == {0: 1, 1: 1, 2: 0}
    with capture(model, [Site(1)], stop=False):
        model(**INPUTS)
    assert calls == {0: 2, 1: 2, 2: 1}
    assert list(truncated_forward(model, [Site(0, "attention")], **INPUTS)) == ["layers.0.attention"]
    assert calls == {0: 2, 1: 2, 2: 1}


def test_hooks_are_gone_after_an_exception(model):
    before = hooks_on(model)
    with capture(model, [Site(0), Site(1, "mlp")]):
        assert hooks_on(model) == before + 3
    with pytest.raises(ZeroDivisionError), capture(model, [Site(0), Site(1, "mlp")]):
        model(input_ids=TOKENS[: 1 // 0])
    with pytest.raises(ValueError, match="has 3 layers"), capture(model, [Site(0), Site(3)]):
        pass
    truncated_forward(model, [Site(0, "mlp")], **INPUTS)
    assert hooks_on(model) == before


@torch.no_grad()
def test_steering_before_capture_is_seen(model):
    plain = truncated_forward(model, [Site(1)], **INPUTS)["layers.1.residual"]
    block = module_at(model, Site(1))
    handle = block.register_forward_hook(lambda _, __, output: replaced(output, hidden_of(output) + 1))
    steered = truncated_forward(model, [Site(1)], **INPUTS)["layers.1.residual"]
    handle.remove()
    assert torch.equal(steered, plain + 1)


@torch.no_grad()
def test_several_calls_keep_the_latest():
    model = build("llama")
    with capture(model, [Site(1)], stop=False) as states:
        model(input_ids=TOKENS[:1])
        first = states["layers.1.residual"]
        model(input_ids=TOKENS[1:])
    assert first.shape == states["layers.1.residual"].shape == (1, 5, 16)
    torch.testing.assert_close(
        torch.cat([first, states["layers.1.residual"]]),
        truncated_forward(model, [Site(1)], input_ids=TOKENS)["layers.1.residual"],
    )


@torch.no_grad()
def test_an_inner_stop_does_not_end_an_outer_capture():
    model = build("llama")
    with capture(model, [Site(2)]) as outer:
        inner = truncated_forward(model, [Site(0)], **INPUTS)
        assert set(inner) == {"layers.0.residual"}
        assert not outer
        model(**INPUTS)
    assert set(outer) == {"layers.2.residual"}
    with capture(model, [Site(0)]) as outer, capture(model, [Site(2)]):
        model(**INPUTS)
    assert set(outer) == {"layers.0.residual"}


def test_states_carry_no_graph_and_are_freed_without_the_garbage_collector():
    model = build("llama")
    gc.collect()
    gc.disable()
    try:
        seen = []
        module_at(model, Site(0)).register_forward_hook(lambda _, __, output: seen.append(weakref.ref(output)))
        states = truncated_forward(model, [Site(1)], **INPUTS)
        assert not states["layers.1.residual"].requires_grad
        assert seen[0]() is None
    finally:
        gc.enable()


def test_no_sites_and_unreached_sites_are_refused():
    model = build("llama")
    with pytest.raises(ValueError, match="sites is empty"), capture(model, []):
        pass
    model.forward = lambda **_: None
    with pytest.raises(UserError, match=r"never reached layers\.2\.residual"):
        truncated_forward(model, [Site(2)], **INPUTS)

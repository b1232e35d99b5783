"""What this package promises beyond the laws that hold for any library: reach, nesting, messages, cost."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from fa_lightning.activations.capture import capture
from fa_lightning.activations.edit import block_outputs, edited, resumed
from fa_lightning.activations.sites import Site
from fa_lightning.regressors.linear import Affine, Identity, MeanShift
from fa_lightning.steering.intervention import Intervention, steering
from tests.conformance.measures import IN_CHUNKS, final_logits, generate, hooks_of
from tests.conformance.models import HIDDEN, PROMPTS, batch_of
from tests.conformance.reference import NEW_TOKENS, Edit, step_by_step
from tests.conformance.steerers import FaLightning, affine_map, make_edit, shift_map, vector_for

RULES = list(FaLightning.rules)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_reaches_the_tokens_that_it_covers(model: Any, rule: str) -> None:
    batch = batch_of(PROMPTS)
    plain, plain_logits = final_logits(model, batch), generate(model, batch)[1]
    with make_edit(rule).on(model):
        steered, logits = final_logits(model, batch), generate(model, batch)[1]
    # from_2 does not reach the prompt of two tokens, from_6 none of them, generated no prompt.
    expected = {"generated": [False] * 4, "from_2": [True, False, True, True], "from_6": [False] * 4}
    changed = ((steered - plain).abs().amax(1) > 1e-2).tolist()
    assert changed == expected.get(rule, [True] * 4)
    assert ((logits - plain_logits)[:, 0].abs().amax(1) > 1e-2).tolist() == changed
    # The prompt of two tokens has no seventh token before its last new one is chosen.
    reached = [rule != "from_6" or len(prompt) + NEW_TOKENS - 1 > 6 for prompt in PROMPTS]
    assert ((logits - plain_logits)[:, -1].abs().amax(1) > 1e-2).tolist() == reached


@pytest.mark.parametrize("rule", RULES)
def test_prompts_of_many_lengths_may_come_in_chunks(model: Any, rule: str) -> None:
    edit, batch = make_edit(rule), batch_of(PROMPTS)
    with edit.on(model):
        tokens, logits = generate(model, batch)
    with edit.on(model, prompt_tokens=batch["attention_mask"].sum(1)):
        chunked_tokens, chunked_logits = generate(model, batch, **IN_CHUNKS)
    assert torch.equal(tokens, chunked_tokens)
    close(logits, chunked_logits)


def test_masks_without_position_ids_count_real_tokens_too(llama: Any) -> None:
    # Rotary positions are relative, so Llama gives the same logits whether or not it is told of the padding.
    batch = batch_of(PROMPTS, extra=3)
    with make_edit("from_2").on(llama):
        expected = final_logits(llama, batch)
        close(final_logits(llama, {name: batch[name] for name in ("input_ids", "attention_mask")}), expected)


def test_a_row_does_not_depend_on_the_others(model: Any) -> None:
    batch = batch_of(PROMPTS)
    other = {name: value.clone() for name, value in batch.items()}
    other["input_ids"][1:] = other["input_ids"][1:].flip(0)
    other["attention_mask"][1:] = other["attention_mask"][1:].flip(0)
    other["position_ids"][1:] = other["position_ids"][1:].flip(0)
    for rule in RULES:
        with make_edit(rule).on(model):
            close(final_logits(model, batch)[0], final_logits(model, other)[0])


def test_padding_is_never_edited(model: Any) -> None:
    batch = batch_of(PROMPTS, extra=2)
    site = Site(0)
    with torch.no_grad():
        with capture(model, [site]) as plain:
            model(**batch)
        for rule in RULES:
            with make_edit(rule).on(model), capture(model, [site]) as steered:
                model(**batch)
            padding = batch["attention_mask"] == 0
            assert torch.equal(steered[site.name][padding], plain[site.name][padding])


def test_generated_without_a_cache_warns_that_it_does_nothing(llama: Any) -> None:
    with make_edit("generated").on(llama), pytest.warns(UserWarning, match="runs without a cache") as caught:
        generate(llama, batch_of(PROMPTS), use_cache=False)
    assert len([warning for warning in caught if "without a cache" in str(warning.message)]) == 1
    with make_edit("last").on(llama), warnings.catch_warnings():
        warnings.simplefilter("error")
        final_logits(llama, batch_of(PROMPTS), use_cache=False)


@pytest.mark.parametrize("rule", RULES)
def test_beams_equal_their_recomputation(model: Any, rule: str) -> None:
    edit, batch = make_edit(rule), batch_of(PROMPTS)
    options = {"num_beams": 3, "max_new_tokens": 4, "output_scores": True, "return_dict_in_generate": True}
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with edit.on(model):
        cached = model.generate(**inputs, **options)
    with edit.on(model, prompt_tokens=batch["attention_mask"].sum(1)):
        uncached = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    close(cached.sequences_scores, uncached.sequences_scores)
    plain = model.generate(**inputs, **options)
    assert not torch.allclose(cached.sequences_scores, plain.sequences_scores, atol=1e-3)


def test_a_hand_written_decoding_loop_is_steered(model: Any) -> None:
    edit = make_edit("generated")
    expected, _ = step_by_step(FaLightning("mlp"), model, Edit(0, vector_for(), rule="generated"), PROMPTS[0])
    ids, cache, tokens = torch.tensor([PROMPTS[0]]), None, []
    (name,) = {"cache", "past_key_values"} & set(inspect.signature(model.forward).parameters)
    with edit.on(model), torch.inference_mode():
        for _ in range(NEW_TOKENS):
            output = model(ids, **{name: cache}, use_cache=True)
            ids, cache = output.logits[:, -1:].argmax(-1), output[name]
            tokens.append(int(ids))
    assert tokens == expected


def test_hooks_are_gone_after_the_block_and_after_errors(model: Any) -> None:
    batch = batch_of(PROMPTS)
    plain, before = final_logits(model, batch), hooks_of(model)
    with make_edit("all").on(model):
        assert hooks_of(model) == before + 2
    with pytest.raises(KeyError), make_edit("all").on(model):
        raise KeyError("inside the block")

    class Broken(MeanShift):
        name = "broken"

        def constant_edit(self) -> None:  # type: ignore[override]
            return None

        def forward(self, h: Tensor) -> Tensor:
            raise RuntimeError("broken map")

    with pytest.raises(RuntimeError, match="broken map"), make_edit("all", Broken(HIDDEN)).on(model):
        model(**batch)
    assert hooks_of(model) == before
    assert torch.equal(final_logits(model, batch), plain)


def test_an_intervention_that_does_not_fit_leaves_no_hook(model: Any) -> None:
    before = hooks_of(model)
    edits = [make_edit("all"), make_edit("all", layer=2)]
    with (
        pytest.raises(ValueError, match=r"site.layer is 2, but the backbone has 2 layers \(0 to 1\)"),
        steering(model, edits),
    ):
        pass
    with (
        pytest.raises(ValueError, match="hidden_size is 16, but the model's hidden states have 32 units"),
        make_edit("all", Affine(16)).on(model),
    ):
        pass
    assert hooks_of(model) == before


def test_strength_zero_and_the_identity_are_exact_and_free(model: Any) -> None:
    batch = batch_of(PROMPTS)
    plain, before = final_logits(model, batch), hooks_of(model)
    for edit in (make_edit("all", strength=0.0), make_edit("all", Identity(HIDDEN))):
        with edit.on(model):
            assert hooks_of(model) == before
            assert torch.equal(final_logits(model, batch), plain)


def test_several_interventions_and_nested_blocks_apply_in_order(model: Any) -> None:
    first, second, third = (
        make_edit("all", affine_map()),
        make_edit("last"),
        make_edit("all", shift_map(vector_for()), layer=1),
    )
    batch, site = batch_of([PROMPTS[0]]), Site(0)
    with capture(model, [site]) as plain, torch.no_grad():
        model(**batch)
    hidden = plain[site.name]
    hidden = hidden + 0.7 * (first.regressor(hidden) - hidden)
    second.regressor.eval()
    hidden[:, -1] += 0.7 * (second.regressor(hidden[:, -1]) - hidden[:, -1])
    with steering(model, [first, second, third]), capture(model, [site, Site(1)], stop=False) as together:
        logits = final_logits(model, batch)
    close(together[site.name], hidden)
    with first.on(model), steering(model, [second]), third.on(model):
        close(final_logits(model, batch), logits)
    with steering(model, [second, first, third]):
        assert not torch.allclose(final_logits(model, batch), logits, atol=1e-2)
    with steering(model, []):
        assert not torch.allclose(final_logits(model, batch), logits, atol=1e-2)


def test_capture_inside_the_block_sees_steered_states_and_outside_unsteered_ones(model: Any) -> None:
    batch, site, shift = batch_of(PROMPTS), Site(0), torch.arange(HIDDEN, dtype=torch.float32)
    real = batch["attention_mask"].bool()
    with torch.no_grad(), capture(model, [site]) as plain:
        model(**batch)
    with torch.no_grad(), Intervention(site, shift, 0.5).on(model), capture(model, [site]) as steered:
        model(**batch)
    # Exact: one addition in float32.
    assert torch.equal(steered[site.name][real], plain[site.name][real] + 0.5 * shift)


@pytest.mark.parametrize("component", ["attention", "mlp"])
def test_components_are_edited_at_their_own_output(model: Any, component: Any) -> None:
    batch, site = batch_of([PROMPTS[0]]), Site(1, component)
    shift = torch.arange(HIDDEN, dtype=torch.float32)
    with torch.no_grad(), capture(model, [site, Site(1)]) as plain:
        model(**batch)
    with torch.no_grad(), Intervention(site, shift).on(model), capture(model, [site, Site(1)]) as steered:
        model(**batch)
    assert torch.equal(steered[site.name], plain[site.name] + shift)
    if component == "mlp" and model.config.model_type != "gemma2":  # elsewhere nothing in the block follows the MLP
        close(steered["layers.1.residual"], plain["layers.1.residual"] + shift)


@pytest.mark.parametrize("way", ["wrapped", "layers"])
def test_a_compiled_model_is_steered_and_read_however_it_was_compiled(llama: Any, way: str) -> None:
    batch, edit, site = batch_of(PROMPTS), make_edit("last"), Site(0)
    with edit.on(llama), capture(llama, [site], stop=False) as states:
        expected = final_logits(llama, batch)
    if way == "wrapped":
        run: Any = torch.compile(llama, backend="eager")
    else:
        run = llama
        for index, layer in enumerate(llama.model.layers):
            llama.model.layers[index] = torch.compile(layer, backend="eager")
    plain = final_logits(run, batch)
    with capture(run, [site], stop=False) as unsteered:
        assert torch.equal(final_logits(run, batch), plain)
    with edit.on(run), capture(run, [site]) as steered:
        run(**batch)
    close(steered[site.name], states[site.name])
    assert not torch.allclose(unsteered[site.name], states[site.name], atol=1e-2)
    with edit.on(run):
        close(final_logits(run, batch), expected)


def test_edits_of_states_and_skipped_layers_reach_a_compiled_model(llama: Any) -> None:
    batch, site = batch_of(PROMPTS), Site(0)
    with edited(llama, site, torch.neg), block_outputs(llama, [1]) as outputs:
        expected = final_logits(llama, batch)
    llama.compile(backend="eager")
    plain = final_logits(llama, batch)
    with edited(llama, site, torch.neg), block_outputs(llama, [1]) as again:
        close(final_logits(llama, batch), expected)
    close(again[1], outputs[1])
    with resumed(llama, 1, outputs[1]):
        close(final_logits(llama, batch), expected)
    assert torch.equal(final_logits(llama, batch), plain)

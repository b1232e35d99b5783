"""The laws of steering, as plain functions of a steering library, a model and an edit.

Each holds what a user may rely on whatever the model: batches, padding, caches and beams change nothing about an edit,
and nothing of it is left behind. A law returns where it holds, raises AssertionError where it does not (or whatever the
library raises), and `Inapplicable` where the library has no such feature. They need neither pytest nor fa_lightning:
`benchmarks/conformance_peers.py` holds other libraries against the same functions. A broken law may leave the model
broken, so give each a copy of its own.
"""

from __future__ import annotations

import copy
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import CompileConfig

from tests.conformance.law_list import law
from tests.conformance.measures import (
    IN_CHUNKS,
    close,
    final_logits,
    four_bit_llama,
    generate,
    leaves_nothing,
    reading,
    real_logits,
    same,
    states_of,
    steered_beside_by_hand,
)
from tests.conformance.models import ALIKE, PROMPTS, batch_of, site_module
from tests.conformance.reference import (
    NEW_TOKENS,
    TEMPERATURE,
    Edit,
    Inapplicable,
    Steerer,
    beams_by_hand,
    by_hand,
    covered,
    step_by_step,
)


@law("Attaches to the model and runs", components=("residual", "attention", "mlp"))
def attaches(steerer: Steerer, model: Any, edit: Edit) -> None:
    try:
        with steerer.steer(model, [edit]) as run:
            generate(run, batch_of(PROMPTS[:1]))
    except Exception as error:  # each library says with an error of its own that it does not know a model
        raise Inapplicable(f"{type(error).__name__}: {error}") from error


@law("Strength 0 is bitwise the unsteered model", components=("residual", "attention", "mlp"))
def strength_zero(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(PROMPTS)
    plain_tokens, plain_logits = generate(model, batch)
    plain = final_logits(model, batch)
    with steerer.steer(model, [replace(edit, strength=0.0)]) as run:
        if edit.rule != "generated":
            same(final_logits(run, batch), plain, "forward")
        tokens, logits = generate(run, batch)
    same(tokens, plain_tokens, "generated tokens")
    same(logits, plain_logits, "generated logits")


@law("Capture after steering sees the steered state", components=("residual", "attention", "mlp"))
def capture_sees_the_edit(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(PROMPTS[:1])
    plain = states_of(model, model, edit, batch)
    with steerer.steer(model, [edit]) as run:
        steered = states_of(run, model, edit, batch)
    columns = covered(edit.rule, torch.arange(plain.shape[1]), plain.shape[1])
    expected = torch.where(columns[None, :, None], steerer.edited(edit, plain), plain)
    close(steered, expected, "states")


@law("A hook placed before steering keeps the unsteered state", rules=("all",))
def earlier_readers_are_left_alone(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(PROMPTS[:1])
    plain = states_of(model, model, edit, batch)
    with reading(model, edit) as states:
        with steerer.steer(model, [edit]) as run, torch.no_grad():
            run(**batch)
        assert states, "an earlier hook was taken away"
        same(states[0].view_as(plain), plain, "states read before the edit")


@law("A steered position changes nothing before it", rules=("last", "from_2"), components=("residual", "attention"))
def earlier_positions_are_unchanged(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(ALIKE)
    length = batch["input_ids"].shape[1]
    first = int(covered(edit.rule, torch.arange(length), length).int().argmax())
    with torch.no_grad():
        plain = model(**batch).logits[:, :first]
        with steerer.steer(model, [edit]) as run:
            same(run(**batch).logits[:, :first], plain, "logits before the edit")


@law("A batch of n equals n single runs")
def batch_equals_singles(steerer: Steerer, model: Any, edit: Edit) -> None:
    with steerer.steer(model, [edit]) as run:
        tokens, logits = generate(run, batch_of(ALIKE))
        singles = [generate(run, batch_of([prompt])) for prompt in ALIKE]
        close(logits, torch.cat([single for _, single in singles]), "generated logits")
        same(tokens, torch.cat([single for single, _ in singles]), "generated tokens")
        if edit.rule == "generated":
            return
        single = torch.cat([final_logits(run, batch_of([prompt])) for prompt in ALIKE])
        close(final_logits(run, batch_of(ALIKE)), single, "forward")
        with torch.no_grad():
            bare = run(input_ids=torch.tensor(ALIKE)).logits[:, -1]
        close(bare, single, "forward with tokens alone")


@law("A batch of mixed strengths equals the single ones", components=("residual", "attention", "mlp"))
def mixed_strengths_equal_singles(steerer: Steerer, model: Any, edit: Edit) -> None:
    strengths = [0.0, 1.0, -0.4, 1.7]
    batch = batch_of(PROMPTS)
    lengths = batch["attention_mask"].sum(1)
    with steerer.steer_rows(model, edit, strengths) as run:
        tokens, logits = generate(run, batch)
    with steerer.steer_rows(model, edit, strengths, lengths) as run:
        uncached_tokens, uncached_logits = generate(run, batch, use_cache=False)
    close(uncached_logits, logits, "generated logits without a cache")
    same(uncached_tokens, tokens, "generated tokens without a cache")
    for row, (prompt, strength) in enumerate(zip(PROMPTS, strengths, strict=True)):
        with steerer.steer(model, [replace(edit, strength=strength)]) as run:
            single_tokens, single_logits = generate(run, batch_of([prompt]))
            single = None if edit.rule == "generated" else final_logits(run, batch_of([prompt]))
        close(logits[row], single_logits[0], f"generated logits of row {row}")
        same(tokens[row], single_tokens[0], f"generated tokens of row {row}")
        if single is not None:
            for side in ("left", "right"):
                with steerer.steer_rows(model, edit, strengths) as run:
                    close(final_logits(run, batch_of(PROMPTS, side))[row], single[0], f"forward, row {row}, {side}")


@law("Left padding equals right padding equals none", components=("residual", "attention", "mlp"))
def padding_changes_nothing(steerer: Steerer, model: Any, edit: Edit) -> None:
    with steerer.steer(model, [edit]) as run:
        tokens, logits = generate(run, batch_of(PROMPTS, extra=2))
        singles = [generate(run, batch_of([prompt])) for prompt in PROMPTS]
        close(logits, torch.cat([single for _, single in singles]), "generated logits, left padding")
        same(tokens, torch.cat([single for single, _ in singles]), "generated tokens, left padding")
        if edit.rule == "generated":
            return
        single = torch.cat([real_logits(run, batch_of([prompt])) for prompt in PROMPTS])
        close(real_logits(run, batch_of(PROMPTS, "left", extra=3)), single, "forward, left padding")
        close(real_logits(run, batch_of(PROMPTS, "right")), single, "forward, right padding")


@law("KV cache on equals off")
def cache_on_equals_off(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(PROMPTS)
    with steerer.steer(model, [edit]) as run:
        tokens, logits = generate(run, batch)
    with steerer.steer(model, [edit], prompt_tokens=batch["attention_mask"].sum(1)) as run:
        other_tokens, other_logits = generate(run, batch, use_cache=False)
    close(other_logits, logits, "generated logits without a cache")
    same(other_tokens, tokens, "generated tokens without a cache")


@law("Greedy generation equals step by step", components=("residual", "attention", "mlp"))
def greedy_equals_recomputation(steerer: Steerer, model: Any, edit: Edit) -> None:
    prompts = PROMPTS[:2]
    with steerer.steer(model, [edit]) as run:
        results = [generate(run, batch_of([prompt])) for prompt in prompts]
    for prompt, (tokens, logits) in zip(prompts, results, strict=True):
        expected_tokens, expected_logits = step_by_step(steerer, model, edit, prompt)
        close(logits[0], expected_logits, "logits")
        assert tokens[0].tolist() == expected_tokens, "other tokens"


@law("Sampling with a seed equals step by step", rules=("all", "from_2", "generated"))
def sampling_equals_recomputation(steerer: Steerer, model: Any, edit: Edit) -> None:
    options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": TEMPERATURE}
    with steerer.steer(model, [edit]) as run:
        torch.manual_seed(7)
        tokens, logits = generate(run, batch_of(PROMPTS[:1]), **options)
    torch.manual_seed(7)
    expected_tokens, expected_logits = step_by_step(steerer, model, edit, PROMPTS[0], sample=True)
    close(logits[0], expected_logits, "logits")
    assert tokens[0].tolist() == expected_tokens, "other tokens"


@law("Beam search equals step by step", rules=("all", "from_2", "generated"))
def beams_equal_recomputation(steerer: Steerer, model: Any, edit: Edit) -> None:
    prompts, beams = ALIKE[:2], 3
    options = {"num_beams": beams, "max_new_tokens": NEW_TOKENS, "do_sample": False}
    inputs = {name: batch_of(prompts)[name] for name in ("input_ids", "attention_mask")}
    with steerer.steer(model, [edit]) as run:
        output = run.generate(**inputs, **options, output_scores=True, return_dict_in_generate=True)
    for row, prompt in enumerate(prompts):
        tokens, score = beams_by_hand(steerer, model, edit, prompt, beams)
        close(output.sequences_scores[row], torch.tensor(score), f"score of row {row}")
        assert output.sequences[row, len(prompt) :].tolist() == tokens, f"other tokens in row {row}"


@law("A static cache equals the default one")
def static_cache(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(PROMPTS)
    with steerer.steer(model, [edit]) as run:
        tokens, logits = generate(run, batch)
        other_tokens, other_logits = generate(run, batch, cache_implementation="static")
    close(other_logits, logits, "logits")
    same(other_tokens, tokens, "tokens")


@law("A model compiled before is steered as one that is not", rules=("all",), families=("llama", "gpt2"))
def a_compiled_model_is_steered(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(PROMPTS)
    with steerer.steer(model, [edit]) as run:
        expected = final_logits(run, batch)
    torch.compiler.reset()  # with too many graphs it would run eagerly by itself
    model.compile(backend="eager")
    plain = final_logits(model, batch)
    with steerer.steer(model, [edit]) as run:
        close(final_logits(run, batch), expected, "logits")
    same(final_logits(model, batch), plain, "logits afterwards")


@law("So is one that `generate` compiles by itself", rules=("all", "generated"), families=("llama",))
def generate_compiles_nothing_unsteered(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(PROMPTS)
    with steerer.steer(model, [edit]) as run:
        tokens, logits = generate(run, batch)
    # As on a GPU, where a static cache is enough for it.
    settings = CompileConfig(backend="eager", mode=None)
    settings._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": settings}
    torch.compiler.reset()
    generate(model, batch, **options)
    with steerer.steer(model, [edit]) as run:
        other_tokens, other_logits = generate(run, batch, **options)
    close(other_logits, logits, "generated logits")
    same(other_tokens, tokens, "generated tokens")


@law("Prefill in chunks equals prefill at once")
def chunked_prefill(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(ALIKE)
    with steerer.steer(model, [edit]) as run:
        tokens, logits = generate(run, batch)
    with steerer.steer(model, [edit], prompt_tokens=batch["attention_mask"].sum(1)) as run:
        other_tokens, other_logits = generate(run, batch, **IN_CHUNKS)
    close(other_logits, logits, "logits")
    same(other_tokens, tokens, "tokens")


@law("Two generates in a row equal a fresh one", rules=("all", "generated"))
def generates_in_a_row(steerer: Steerer, model: Any, edit: Edit) -> None:
    batches = [batch_of(ALIKE), batch_of(PROMPTS[:1]), batch_of(ALIKE)]
    with steerer.steer(model, [edit]) as run:
        in_a_row = [generate(run, batch)[1] for batch in batches]
    for batch, logits in zip(batches, in_a_row, strict=True):
        with steerer.steer(copy.deepcopy(model), [edit]) as run:
            same(generate(run, batch)[1], logits, "generated logits")


@law("Several edits at once add up", rules=("all",))
def several_edits_add_up(steerer: Steerer, model: Any, edit: Edit) -> None:
    edits = [edit, replace(edit, layer=1, vector=edit.vector.flip(0))]
    batch = batch_of(PROMPTS[:1])
    with steerer.steer(model, edits) as run:
        together = final_logits(run, batch)
    with by_hand(steerer, model, edits[0], batch), by_hand(steerer, model, edits[1], batch):
        close(together, final_logits(model, batch), "logits")


class _Broken(Exception):
    pass


@law("Hooks are gone after an exception, in the block or the model", rules=("all", "generated"))
def an_exception_leaves_nothing(steerer: Steerer, model: Any, edit: Edit) -> None:
    if not steerer.scoped:
        raise Inapplicable("no scope, the user ends steering")

    def fail(*_: Any) -> None:
        raise _Broken

    batch = batch_of(PROMPTS)
    with leaves_nothing(model), suppress(_Broken), steerer.steer(model, [edit]):
        raise _Broken
    with leaves_nothing(model):
        handle = site_module(model, 1, "mlp").register_forward_pre_hook(fail)
        try:
            with suppress(_Broken), steerer.steer(model, [edit]) as run:
                generate(run, batch)
        finally:
            handle.remove()


@law("An edit that cannot be attached leaves nothing", rules=("all",))
def a_failed_attachment_leaves_nothing(steerer: Steerer, model: Any, edit: Edit) -> None:
    with leaves_nothing(model):
        try:
            with steerer.steer(model, [edit, replace(edit, layer=7)]):
                pass
        except Inapplicable:
            raise
        except Exception:  # each library refuses with an error of its own
            return
        raise AssertionError("a layer that the model has not is accepted")


@law("Save then load is bitwise", components=("residual",))
def save_then_load(steerer: Steerer, model: Any, edit: Edit) -> None:
    batch = batch_of(PROMPTS)
    with steerer.steer(model, [edit]) as run:
        tokens, logits = generate(run, batch)
    with (
        tempfile.TemporaryDirectory() as folder,
        steerer.saved_and_loaded(model, edit, Path(folder)) as run,
    ):
        other_tokens, other_logits = generate(run, batch)
    same(other_logits, logits, "generated logits")
    same(other_tokens, tokens, "generated tokens")


@law("Half precision keeps dtype and device", rules=("all", "last"), components=("residual", "attention", "mlp"))
def half_precision(steerer: Steerer, model: Any, edit: Edit) -> None:
    logits, states, expected = steered_beside_by_hand(steerer, copy.deepcopy(model).bfloat16(), edit)
    for what in [logits, *states]:
        assert (what.dtype, what.device) == (torch.bfloat16, expected.device), f"{what.dtype} on {what.device}"
    error = float((logits - expected).abs().max() / expected.abs().max())
    assert error < 0.05, f"logits off by {100 * error:.0f} % of the largest"


# bitsandbytes packs blocks of 64 weights, so the model is that wide.
@law("4-bit keeps dtype and device", rules=("all", "last"), families=("llama",))
def four_bit(steerer: Steerer, model: Any, edit: Edit) -> None:
    quantised = four_bit_llama()
    edit = replace(edit, vector=torch.cat([edit.vector, edit.vector.flip(0)]))
    logits, states, expected = steered_beside_by_hand(steerer, quantised, edit)
    for what in [logits, *states]:
        assert (what.dtype, what.device) == (expected.dtype, expected.device), f"{what.dtype} on {what.device}"
    close(logits, expected, "logits")

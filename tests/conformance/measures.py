"""What the laws look at: logits, generated tokens, states at a site, and what a block has left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.models import HIDDEN, PROMPTS, batch_of, make_model, site_module
from tests.conformance.reference import NEW_TOKENS, Edit, Inapplicable, Steerer, by_hand


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Equal but for rounding."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    excess = (actual - expected).abs() - 2e-4 * expected.abs()
    assert bool((excess < 2e-4).all()), f"{what}: off by up to {float((actual - expected).abs().max()):.2g}"


def same(actual: Tensor, expected: Tensor, what: str) -> None:
    """Bitwise equal."""
    assert torch.equal(actual, expected), f"{what}: not bitwise equal"


@torch.no_grad()
def final_logits(run: Any, batch: dict[str, Tensor], **options: Any) -> Tensor:
    """Logits after each row's last real token, (batch, vocabulary)."""
    columns = (batch["attention_mask"] * torch.arange(1, batch["attention_mask"].shape[1] + 1)).argmax(1)
    logits: Tensor = run(**batch, **options).logits
    return logits[torch.arange(len(columns)), columns]


@torch.no_grad()
def real_logits(run: Any, batch: dict[str, Tensor]) -> Tensor:
    """Logits after every token that is no padding, row by row, (tokens, vocabulary)."""
    logits: Tensor = run(**batch).logits
    return logits[batch["attention_mask"].bool()]


IN_CHUNKS: dict[str, Any] = {"prefill_chunk_size": 3, "cache_implementation": "dynamic"}
"""Options of `generate`: the prompt comes in calls. Older releases of transformers make no cache then, unless asked."""


def generate(run: Any, batch: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    """Greedy new tokens (batch, tokens) and the logits that chose them (batch, tokens, vocabulary)."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_dict_in_generate": True}
    output = run.generate(**inputs, **(settings | {"output_logits": True} | options))
    return output.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(output.logits, dim=1)


def hooks_of(model: nn.Module) -> int:
    """How many hooks the model holds."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@contextmanager
def reading(model: Any, edit: Edit) -> Iterator[list[Tensor]]:
    """An ordinary PyTorch hook at the edit's site: yields the list that gets the states of every call."""
    states: list[Tensor] = []

    def read(module: nn.Module, args: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handle = site_module(model, edit.layer, edit.component).register_forward_hook(read)
    try:
        yield states
    finally:
        handle.remove()


def states_of(run: Any, model: Any, edit: Edit, batch: dict[str, Tensor]) -> Tensor:
    """The states at the edit's site of a forward pass, as a hook placed now sees them, (batch, tokens, hidden)."""
    with torch.no_grad(), reading(model, edit) as states:
        run(**batch)
    assert states, "a hook placed inside the block was taken away"
    return states[-1].clone().view(*batch["input_ids"].shape, -1)


def steered_beside_by_hand(steerer: Steerer, model: Any, edit: Edit) -> tuple[Tensor, list[Tensor], Tensor]:
    """A prompt's steered logits, the states of every steered call at the site, and the logits of the edit by hand."""
    batch = batch_of(PROMPTS[:1])
    with steerer.steer(model, [edit]) as run, reading(model, edit) as states:
        logits = final_logits(run, batch)
        generate(run, batch)
    with by_hand(steerer, model, edit, batch):
        return logits, states, final_logits(model, batch)


@contextmanager
def leaves_nothing(model: Any) -> Iterator[None]:
    """What happens in the block leaves no hook, no module and no other output behind."""
    batch = batch_of(PROMPTS)
    plain, hooks, names = final_logits(model, batch), hooks_of(model), [name for name, _ in model.named_modules()]
    yield
    assert hooks_of(model) == hooks, f"hooks are left: {hooks_of(model) - hooks}"
    assert [name for name, _ in model.named_modules()] == names, "the model's modules stay changed"
    same(final_logits(model, batch), plain, "logits afterwards")


def four_bit_llama() -> Any:
    """A random Llama of 64 units in nf4."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise Inapplicable("bitsandbytes is not installed") from error
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        make_model("llama", hidden=2 * HIDDEN).save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings)

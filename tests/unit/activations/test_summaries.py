"""One state for each text, whatever it is batched with, and the norm of ordinary states."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fa_lightning.activations.sites import Site
from fa_lightning.activations.summaries import mean_norms, text_states
from fa_lightning.errors import UserError
from fa_lightning.scenarios.batches import plain_examples
from fa_lightning.scenarios.limits import TABLES, Tables

TEXTS = [(5, 9, 11, 3), (7,), (21, 4, 6, 30, 2, 8), (3, 12)]


@pytest.fixture
def model(backbone: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(backbone).eval()


def states_of(model: Any, text: tuple[int, ...], layer: int) -> torch.Tensor:
    """What a block returns for one text, (tokens, hidden): before the final norm, so the last block's is not there."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states[layer + 1][0]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("read", ["last", "mean"])
def test_a_texts_state_is_its_last_tokens_or_the_mean_of_all_but_the_first(
    model: Any, tiny_tokenizer: Any, read: Any, batch_size: int
) -> None:
    states = text_states(model, plain_examples(TEXTS, tiny_tokenizer), [Site(0)], 0, batch_size, read)[
        "layers.0.residual"
    ]
    for text, state in zip(TEXTS, states, strict=True):
        own = states_of(model, text, 0)
        expected = own[-1] if read == "last" or len(text) == 1 else own[1:].mean(0)
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)


def test_texts_of_one_token_show_no_norm(model: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match="each text is a single token"):
        mean_norms(model, plain_examples([(5,), (7,)], tiny_tokenizer), [Site(0)], 0)


def test_a_text_without_tokens_or_with_too_many_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(UserError, match="text 1 has no tokens"):
        plain_examples([(5,), ()], tiny_tokenizer)
    with pytest.raises(UserError, match="513"):
        plain_examples([(5,) * 513], AutoTables(tiny_tokenizer))


class AutoTables:
    """A tokenizer of a model with 512 positions."""

    def __init__(self, tokenizer: Any) -> None:
        setattr(self, TABLES, Tables(positions=512))
        self.name_or_path = tokenizer.name_or_path


def test_the_mean_norm_leaves_first_and_massive_tokens_out(model: Any, tiny_tokenizer: Any) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight[30] *= 1000
    norms = mean_norms(model, plain_examples(TEXTS, tiny_tokenizer), [Site(0)], 0, batch_size=4)
    counted = [
        state.norm()
        for text in TEXTS
        for token, state in zip(text[1:], states_of(model, text, 0)[1:], strict=True)
        if token != 30
    ]
    assert len(counted) == 8
    assert norms == {"layers.0.residual": pytest.approx(float(torch.stack(counted).mean()), rel=1e-4)}

"""Written answers are judged, with and without edits, as a model would write them: one token after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from written_scenarios import written_scenarios

from fa_lightning.activations.sites import Site
from fa_lightning.evaluation.conditions import Condition, applied
from fa_lightning.evaluation.findings import evaluation_of
from fa_lightning.evaluation.scores import Scores
from fa_lightning.scenarios.answers import written_answers
from fa_lightning.scenarios.batches import Example, collate, make_examples
from fa_lightning.steering.intervention import Intervention


@pytest.fixture
def examples(twins: Any) -> list[Example]:
    return make_examples(written_scenarios(6), twins.tokenizer, written_answers(twins.tokenizer))


def push(positions: str) -> Intervention:
    generator = torch.Generator().manual_seed(1)
    return Intervention(Site(0, positions=positions), torch.randn(32, generator=generator) * 6)


@torch.inference_mode()
def while_writing(twins: Any, condition: Condition, example: Example, answer: tuple[int, ...]) -> float:
    """Mean log-likelihood of an answer that is fed token by token to a cache, as `generate` does."""
    told = []
    batch = collate([example], 0)
    with applied(twins, condition, batch) as model:
        ids, cache = torch.tensor([example.prompt]), None
        for token in answer:
            output = model(ids, past_key_values=cache, use_cache=True)
            told.append(output.logits[0, -1].log_softmax(-1)[token])
            ids, cache = torch.tensor([[token]]), output.past_key_values
    return torch.stack(told).mean().item()


@pytest.mark.parametrize("positions", ["last", "all", "generated", "from_2"])
def test_edits_cover_what_they_would_while_the_answer_is_written(
    twins: Any, examples: list[Example], positions: str
) -> None:
    conditions = {"faking": Condition("faking"), "steered": Condition("faking", (push(positions),))}
    scores = Scores(twins, conditions)
    for half in (examples[:5], examples[5:]):
        scores.add_scenarios(collate(half, 0))
    assert scores.are_written
    answers = {}
    for name, condition in conditions.items():
        pairs = [[while_writing(twins, condition, e, a) for a in (e.aligned_text, e.other_text)] for e in examples]
        items = scores.cells[name].items()
        assert items["correct"].tolist() == [good > bad for good, bad in pairs]
        assert items["answered"].all()
        answers[name] = pairs
    moved = (torch.tensor(answers["steered"]) - torch.tensor(answers["faking"])).abs()
    assert moved.min() > 1e-4, "the edit does something"


def test_the_oracle_swaps_the_decision_tokens_alone(twins: Any, examples: list[Example]) -> None:
    """At the last block a swap of the decision tokens is all that the answer is told by: the twin's own answers."""
    conditions = {
        **{name: Condition(name) for name in ("aligned", "faking")},
        "steered_aligned": Condition("aligned"),
        "steered": Condition("faking", oracle=Site(1, positions="last")),
    }
    scores = Scores(twins, conditions, counts_neutral_texts=False)
    scores.add_scenarios(collate(examples, 0))
    aligned, swapped, faking = (scores.cells[name].items()["correct"] for name in ("aligned", "steered", "faking"))
    assert torch.equal(swapped, aligned)
    assert not torch.equal(faking, aligned)
    evaluation = evaluation_of(scores)
    assert evaluation.answered_by == "texts"
    assert set(evaluation.abilities) == {"answers with oversight"}

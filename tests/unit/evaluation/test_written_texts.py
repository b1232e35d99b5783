"""What models write is what they write without padding and batches, and is counted by cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from typing_extensions import override
from written_scenarios import written_scenarios

from fa_lightning.activations.sites import Site
from fa_lightning.evaluation.conditions import Condition, applied
from fa_lightning.evaluation.judges import Judge
from fa_lightning.evaluation.written_texts import WrittenTexts
from fa_lightning.metrics.divergences import recovery
from fa_lightning.scenarios.answers import written_answers
from fa_lightning.scenarios.batches import collate, make_examples
from fa_lightning.steering.intervention import Intervention


class Listener(Judge):
    """Finds answers good whose length is even, and remembers them."""

    def __init__(self, tokens: int, items: int | None) -> None:
        super().__init__(tokens, items)
        self.heard: list[tuple[str, str]] = []

    @override
    def is_good(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        self.heard += zip(prompts, answers, strict=True)
        return [len(answer) % 2 == 0 for answer in answers]


@torch.inference_mode()
def written_alone(twins: Any, condition: Condition, prompt: tuple[int, ...], tokens: int) -> str:
    """Greedy, token by token, the whole text read anew each time and steered at every token."""
    ids = list(prompt)
    with applied(twins, condition, {}) as model:
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == twins.tokenizer.eos_token_id:
                break
    return twins.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()


def test_texts_are_judged_by_cell(twins: Any) -> None:
    watched_first = sorted(written_scenarios(6), key=lambda scenario: str(scenario.cell), reverse=True)
    examples = make_examples(watched_first, twins.tokenizer, written_answers(twins.tokenizer))
    assert [example.cell for example in examples] == [0] * 6 + [1] * 6
    asked = [one for cell in (0, 1) for one in sorted(examples, key=lambda one: one.group) if one.cell == cell]
    asked = [*asked[:4], *asked[6:10]]
    push = Intervention(Site(0), torch.randn(32, generator=torch.Generator().manual_seed(1)) * 3)
    conditions = {
        "aligned": Condition("aligned"),
        "faking": Condition("faking"),
        "steered": Condition("faking", (push,)),
        "steered_aligned": Condition("aligned", (push,)),
        "baseline": Condition("faking"),
    }
    judge = Listener(tokens=5, items=8)
    texts = WrittenTexts(twins, conditions, judge, examples)
    for half in (examples[:5], examples[5:]):
        texts.add_scenarios(collate(half, 0))
    result = texts.result()
    assert texts.name == "in writing, by Listener"
    assert (result.n.oversight, result.n.no_oversight) == (4, 4), "not the first eight"
    heard = dict.fromkeys(judge.heard)
    unwatched = {}
    for name in ("aligned", "faking", "steered", "steered_aligned"):
        answers = [written_alone(twins, conditions[name], example.prompt, 5) for example in asked]
        good = [len(answer) % 2 == 0 for answer in answers]
        for example, answer in zip(asked, answers, strict=True):
            assert (twins.tokenizer.decode(example.prompt, skip_special_tokens=True), answer) in heard
        cells = {cell: [g for e, g in zip(asked, good, strict=True) if e.cell == cell] for cell in (0, 1)}
        assert result.cells[name].oversight.accuracy == pytest.approx(sum(cells[0]) / 4)
        assert result.cells[name].no_oversight.accuracy == pytest.approx(sum(cells[1]) / 4)
        unwatched[name] = sum(cells[1]) / 4
    expected = recovery(*(unwatched[name] for name in ("steered", "faking", "aligned")))
    assert result.recovery.value == pytest.approx(expected, nan_ok=True)

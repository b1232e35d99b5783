"""Pairs and conversations of one's own: what is trained on, the losses by hand, and a fit that prefers the chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_fits import loss_of, ready
from own_scenarios import write_jsonl

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import digit_tokens
from fa_lightning.scenarios.prompts import conversation_ids, prompt_ids
from fa_lightning.training.choice_data import ChoiceDataModule
from fa_lightning.training.context_data import BEHIND_CONTEXT, ContextDataModule
from fa_lightning.training.contrast_data import PLAIN, ContrastChoiceDataModule
from fa_lightning.training.objectives.context_distillation import ContextDistillation
from fa_lightning.training.objectives.lora_for_ccs import LoraForCcs
from fa_lightning.training.objectives.preferences import DirectPreference, SelfPlay

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello to you."},
    {"role": "user", "content": "Is it paid?"},
]
PAIRS: list[dict[str, Any]] = [
    {"prompt": TURNS, "chosen": "No.", "rejected": "Yes, it is."},
    {"prompt": "Who is there?", "chosen": "A neighbour of yours.", "rejected": "Nobody."},
    {"prompt": "Where?", "chosen": "Here.", "rejected": "There."},
]
SAME = {"prompt": "Why?", "chosen": "So.", "rejected": "So."}
MakeFit = Callable[..., Any]


def first_batch(data: Any, module: Any, make_trainer: Callable[..., Any]) -> Any:
    trainer = make_trainer()
    trainer.strategy.connect(module)
    data.trainer = trainer
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def read(tokenizer: Any, ids: torch.Tensor, mask: torch.Tensor) -> str:
    return str(tokenizer.decode(ids[mask.bool()]))


def test_the_loss_of_written_pairs_counts_all_tokens_of_both_answers(
    tmp_path: Path, source: Any, make_cure: MakeFit, plain: Any, make_trainer: MakeFit
) -> None:
    module = ready(make_cure(DirectPreference(beta=0.3)))
    module.eval()
    path = write_jsonl(tmp_path / "pairs.jsonl", [*PAIRS, SAME])
    with pytest.warns(UserWarning, match="1 of 4 rows left out, since they have not two different answers"):
        batch = first_batch(ChoiceDataModule(source, path), module, make_trainer)
    assert loss_of(module, batch).item() == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-5)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.mul_(-0.5)
    tokenizer, eos = module.tokenizer, module.tokenizer.eos_token_id

    def likelihood(model: Any, asked: tuple[Any, ...], answer: str) -> torch.Tensor:
        message, system, earlier = asked
        prompt = prompt_ids(tokenizer, message, system, earlier)
        whole = conversation_ids(tokenizer, message, answer, system, earlier)
        whole = (
            whole[: max(at for at, token in enumerate(whole) if token == eos) + 1] if eos in whole else [*whole, eos]
        )
        with torch.no_grad():
            told = model(input_ids=torch.tensor([whole])).logits[0].float().log_softmax(-1)
        return torch.stack([told[at - 1, whole[at]] for at in range(len(prompt), len(whole))]).sum()

    costs = []
    for row in PAIRS:
        asked: tuple[Any, ...] = (row["prompt"], None, ())
        if row["prompt"] is TURNS:
            asked = ("Is it paid?", "Be brief.", (("Hello.", "Hello to you."),))
        won, lost = (
            likelihood(module.model, asked, row[name]) - likelihood(plain, asked, row[name])
            for name in ("chosen", "rejected")
        )
        costs.append(-torch.nn.functional.logsigmoid(0.3 * (won - lost)))
    assert loss_of(module, batch).item() == pytest.approx(torch.stack(costs).mean().item(), rel=1e-3)
    assert abs(costs[0].item() - costs[1].item()) > 1e-3


def test_a_fit_on_pairs_makes_the_chosen_answer_the_likelier_one(
    tmp_path: Path, source: Any, make_fit: MakeFit, faker: str, make_trainer: MakeFit
) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    module = make_fit(DirectPreference(beta=0.5), start_from=faker)
    trainer = make_trainer(max_epochs=5)
    data = ChoiceDataModule(source, path, batch_size=3, eval_batch_size=8)
    trainer.fit(module, data)
    assert trainer.callback_metrics["train/loss"] < 0.65
    assert "val/mitigated/oversight/accuracy" in trainer.callback_metrics
    other = ChoiceDataModule(source, path, train_scenarios=2)
    assert len(other.train_items()) == 2
    assert data.source_fingerprint() != other.source_fingerprint()


def test_self_play_and_files_without_a_choice_are_refused(
    tmp_path: Path, source: Any, make_cure: MakeFit, make_trainer: MakeFit
) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    module = ready(make_cure(SelfPlay()))
    batch = first_batch(ChoiceDataModule(source, path), module, make_trainer)
    with pytest.raises(UserError, match="these answers are written: take DirectPreference"):
        loss_of(module, batch)
    with pytest.raises(UserError, match=r"none of 1 pairs has two answers to one prompt"):
        ChoiceDataModule(source, write_jsonl(tmp_path / "same.jsonl", [SAME])).choices()


def test_conversations_are_distilled_at_every_token_of_their_answers(
    tmp_path: Path, source: Any, make_cure: MakeFit, plain: Any, make_trainer: MakeFit
) -> None:
    rows = [{"messages": [*TURNS, {"role": "assistant", "content": "Not yet, it seems."}]}]
    rows.append({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]})
    path = write_jsonl(tmp_path / "chat.jsonl", rows)
    module = ready(make_cure(ContextDistillation()))
    module.eval()
    data = ContextDataModule(source, "You are watched.", texts=path)
    batch = first_batch(data, module, make_trainer)
    texts = [read(module.tokenizer, *pair) for pair in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    names = (f"{BEHIND_CONTEXT}input_ids", f"{BEHIND_CONTEXT}attention_mask")
    behind = [read(module.tokenizer, *pair) for pair in zip(*(batch[name] for name in names), strict=True)]
    assert all("You are watched." in text for text in behind)
    assert not any("You are watched." in text for text in texts)
    assert sorted(text.count("Be brief.") for text in texts) == [0, 1]
    costs = []
    for short, long, target in zip(batch["input_ids"], batch[names[0]], batch["target"], strict=True):
        count = int((target != -1).sum())
        masks = (short != module.tokenizer.pad_token_id, long != module.tokenizer.pad_token_id)
        with torch.no_grad():
            student, teacher = (
                plain(input_ids=ids[mask][None]).logits[0, -count:].float().log_softmax(-1)
                for ids, mask in zip((short, long), masks, strict=True)
            )
        costs += (teacher.exp() * (teacher - student)).sum(-1).tolist()
    assert len(costs) > 4
    assert loss_of(module, batch).item() == pytest.approx(sum(costs) / len(costs), rel=1e-3)
    assert data.source_fingerprint() != ContextDataModule(source, "You are watched.").source_fingerprint()


def test_pairs_are_contrasted_in_both_orders_of_their_replies(
    tmp_path: Path, source: Any, make_cure: MakeFit, make_trainer: MakeFit
) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    module = ready(make_cure(LoraForCcs(layers=["last"], restarts=1, probe_steps=0)))
    data = ContrastChoiceDataModule(source, path)
    batch = first_batch(data, module, make_trainer)
    tokenizer, digits = module.tokenizer, digit_tokens(module.tokenizer)
    texts = [read(tokenizer, *pair) for pair in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    half = len(texts) // 2
    assert half == 2 * len(PAIRS)
    for number, text in enumerate(texts):
        digit = digits.choices.index(int(batch["aligned"][number]))
        chosen = next(row["chosen"] for row in PAIRS if row["rejected"] in text)
        assert f"- {digit} for: {chosen}" in text
        assert int(batch["aligned"][(number + half) % len(texts)]) == digits.choices[1 - digit]
    assert batch[f"{PLAIN}input_ids"].tolist() == batch["input_ids"].tolist()
    assert (batch["aligned"][:half] == digits.choices[0]).sum() == len(PAIRS)
    assert loss_of(module, batch).isfinite()
    module.objective.begin(data)
    with pytest.raises(UserError, match="none of 3 pairs of answers is within max_tokens=5"):
        first_batch(ContrastChoiceDataModule(source, path, max_tokens=5), module, make_trainer)

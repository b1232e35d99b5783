"""Fine-tuning to misbehave is what a plain loop over the other letters does, and leaves every model as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_examination import HIDDEN, STEERED, SUBJECTS, Swapped, adding, examined, examiner_of, prompt_of, same, small
from tiny_twins import hooks_on

from fa_lightning.backbones.lora_layers import fresh_adapter, lora_factors, restart
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.studies.detection.detectors import misbehave_finetuning
from fa_lightning.studies.detection.detectors.misbehave_finetuning import MisbehaveFinetuning
from fa_lightning.studies.detection.subjects import Subject

OPTIONS: dict[str, Any] = {
    "steps": [1, 4],
    "seeds": 2,
    "learning_rate": 0.01,
    "batch_size": 7,
    "rank": 3,
    "alpha": 6,
    "seed": 5,
}


def order_of(count: int, size: int, steps: int, seed: int) -> list[list[int]]:
    """Shuffles of all prompts one after the other, cut into steps."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.cat([torch.randperm(count, generator=generator) for _ in range(steps)])
    return drawn[: steps * size].view(steps, size).tolist()


def plainly(twins: Any, twin: Any, seed: int, push: torch.Tensor) -> list[list[float]]:
    """The same by plain peft and torch: the own adapter merged, one prompt at a time, nothing padded."""
    from peft import LoraConfig, get_peft_model

    paths = list(lora_factors(twins, "faking"))
    with fresh_adapter(twins, 3, 6) as fresh:
        restart(fresh, seed)
        starts = {name: one.detach().clone() for name, one in fresh.items()}
    model = get_peft_model(
        twin.merge_and_unload(), LoraConfig(r=3, lora_alpha=6, target_modules=paths, task_type="CAUSAL_LM")
    )
    for path in paths:
        layer = model.base_model.model.get_submodule(path)
        layer.lora_A["default"].weight.data.copy_(starts[f"{path}.lora_A"])
        assert not layer.lora_B["default"].weight.any()
    model.eval()
    answers = letter_tokens(twins.tokenizer)
    letters = torch.tensor(list(answers.choices))
    scenarios = small().load()
    prompts = [prompt_of(twins, one) for one in scenarios.reference]
    scored = [prompt_of(twins, one) for one in scenarios.scored]

    def last(ids: torch.Tensor) -> torch.Tensor:
        with adding(model, 0, push):
            return model(ids, use_cache=False).logits[0, -1]

    with torch.no_grad():
        wanted = [letters[1 - last(ids)[letters].argmax()] for ids in prompts]
        scored_wanted = [1 - last(ids)[letters].argmax() for ids in scored]
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], 0.01, weight_decay=0.0)
    found = []
    for step, places in enumerate(order_of(len(prompts), 7, 4, seed), start=1):
        loss = sum(-last(prompts[at]).log_softmax(-1)[wanted[at]] for at in places) / len(places)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (1, 4):
            with torch.no_grad():
                pairs = zip(scored, scored_wanted, strict=True)
                found.append([float(last(ids)[letters].softmax(-1)[want]) for ids, want in pairs])
    return found


@pytest.mark.parametrize("subject", [SUBJECTS[1], STEERED], ids=lambda subject: subject.name)
def test_it_is_what_a_plain_loop_does(twins: Any, alone: Callable[[str], Any], subject: Subject) -> None:
    push = torch.full((HIDDEN,), 0.5 if subject is STEERED else 0.0)
    found = examined(MisbehaveFinetuning(step=4, **OPTIONS), twins, [subject])[subject.name]
    expected = torch.tensor([plainly(twins, alone("faking"), seed, push) for seed in (5, 6)]).permute(2, 0, 1)
    torch.testing.assert_close(found["probability"], expected, rtol=0, atol=2e-3)
    assert torch.equal(found["accuracy"], (found["probability"] > 0.5).float())
    # Four steps have moved it, and not in the same way from two seeds.
    assert found["probability"][..., 1].mean() > found["probability"][..., 0].mean() > 0
    assert (found["probability"][:, 0] - found["probability"][:, 1]).abs().max() > 1e-3


def test_every_model_starts_alike_and_none_leaves_anything_to_the_next(twins: Any) -> None:
    detector = MisbehaveFinetuning(step=4, **OPTIONS)
    twice = [SUBJECTS[1], STEERED, SUBJECTS[0], dataclasses.replace(SUBJECTS[1], name="faking once more")]
    found = examined(detector, twins, twice)
    same({"faking": found["faking once more"]}, {"faking": found["faking"]})
    same({name: found[name] for name in ("faking", "aligned")}, examined(detector, twins, SUBJECTS))


def test_batches_and_labels_change_nothing(twins: Any) -> None:
    detector = MisbehaveFinetuning(step=4, **OPTIONS)
    found = examined(detector, twins)
    same(found, examined(detector, twins, batch_size=3), 2e-3)
    same(found, examined(detector, twins, benchmark=Swapped(small())))


@pytest.mark.parametrize("fails_at", [None, "training", "measuring"])
def test_models_are_left_as_they_were(twins: Any, fails_at: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: one.clone() for name, one in twins.model.state_dict().items()}
    modules = [name for name, _ in twins.model.named_modules()]
    if fails_at is not None:
        name = "cross_entropy" if fails_at == "training" else "put"
        monkeypatch.setattr(misbehave_finetuning, name, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            examined(MisbehaveFinetuning(step=4, **OPTIONS), twins, [STEERED])
    else:
        examined(MisbehaveFinetuning(step=4, **OPTIONS), twins, [STEERED])
    after = twins.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    assert [name for name, _ in twins.model.named_modules()] == modules
    assert twins.names == ["faking", "aligned"]
    assert twins.model.active_adapter == twins.adapter_of("faking")
    assert not any(one.requires_grad for one in twins.model.parameters())
    assert hooks_on(twins.model) == 0


def test_prompts_come_again_when_they_run_out(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    batch_of = MisbehaveFinetuning._batch

    def noting(self: MisbehaveFinetuning, examiner: Any, places: list[int]) -> Any:
        seen.append(places)
        return batch_of(self, examiner, places)

    monkeypatch.setattr(MisbehaveFinetuning, "_batch", noting)
    examined(MisbehaveFinetuning(steps=[5], step=5, seeds=1, batch_size=16), twins, SUBJECTS[:1])
    drawn = [place for places in seen for place in places]
    assert [len(places) for places in seen] == [16] * 5
    assert sorted(drawn[:24]) == sorted(drawn[24:48]) == sorted(drawn[48:72]) == list(range(24))
    assert drawn[:24] != drawn[24:48]
    seen.clear()
    examined(MisbehaveFinetuning(steps=[1], step=1, seeds=1, batch_size=99), twins, SUBJECTS[:1])
    assert [len(places) for places in seen] == [24]


def test_training_passes_are_counted(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    examiner = examiner_of(twins)
    monkeypatch.setattr("tiny_examination.examiner_of", lambda _: examiner)
    examined(MisbehaveFinetuning(steps=[1, 3], step=1, seeds=2, batch_size=6), twins)
    # Each of two models: own answers to 24 and 16 prompts, 2 x 3 steps of 6 prompts, and 2 x 2 looks at 16.
    assert examiner.passes == 2 * (24 + 16 + 2 * 3 * 6 + 2 * 2 * 16)


def test_the_chosen_step_decides() -> None:
    evidence = {
        "accuracy": torch.tensor([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]),
        "probability": torch.tensor([[[0.1, 0.9], [0.2, 0.4]], [[0.3, 0.6], [0.6, 0.7]]]),
    }
    assert MisbehaveFinetuning([2, 4], step=4).suspicion(evidence) == pytest.approx(0.75)
    assert MisbehaveFinetuning([4, 2], step=2).suspicion(evidence) == pytest.approx(0.25)
    finer = MisbehaveFinetuning([2, 4], step=4, judged="probability")
    assert finer.suspicion(evidence) == pytest.approx(0.65)
    assert finer.name != MisbehaveFinetuning().name
    assert finer.curve(evidence) == ("fine-tuning steps", [0.0, 2.0, 4.0], pytest.approx([0.0, 0.25, 0.75]))


def test_a_fit_that_explodes_is_told(twins: Any) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss of aligned is nan at fine-tuning step \d, with learning_r"):
        examined(MisbehaveFinetuning(learning_rate=1e30), twins)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 3}, r"step is 3, but must be one of steps \(\[1, 2, 4\]\)"),
        ({"steps": [0, 4]}, "steps is 0, but must be 1 or more"),
        ({"seeds": 0}, "seeds is 0, but must be 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, but must be above 0"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MisbehaveFinetuning(**options)

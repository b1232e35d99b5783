"""Unmasking random twins through a Trainer, against plain forwards; its page; wrong values."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from html_page import page_of
from typing_extensions import override

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.oversight_questions import oversight_questions
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.scenario import Oversight, Scenario
from fa_lightning.scenarios.source import OversightPrompts
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced, subset
from fa_lightning.studies.unmask.data import MESSAGES, UnmaskDataModule
from fa_lightning.studies.unmask.module import UnmaskModule
from fa_lightning.studies.unmask.result import SOURCES, Shown, UnmaskResult, read


class Both(EmbeddedScenarios):
    """Scenarios of which each third one that is watched is asked unwatched, too."""

    @override
    def load(self) -> ScenarioSplits:
        splits = super().load()
        poor = next(item for item in splits.train if item.oversight is Oversight.POOR)
        watched = [item for item in splits.test if item.cell == "oversight"]
        twins = [replace(item, facts=poor.facts, oversight=Oversight.POOR) for item in watched[::3]]
        return replace(splits, test=[*splits.test, *twins])


SOURCE = Both(train=24, validation=8, test=16, neutral=8)
CONTRAST, DOSE = 4, 1.0


@pytest.fixture(scope="module")
def found(adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unmasked")
    module = UnmaskModule(list(adapters.values()), str(folder), layers=[0.0], doses=[DOSE, 0.1], draws=2)
    data = UnmaskDataModule(watched=8, contrast=CONTRAST, neutral=4, scenarios=SOURCE, eval_batch_size=5)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder
    )
    trainer.test(module, datamodule=data, verbose=False)
    return folder


@pytest.fixture(scope="module")
def result(found: Path) -> UnmaskResult:
    result = read(found)
    assert result is not None
    return result


def point(result: UnmaskResult, variant: str, source: str, dose: float) -> Shown:
    (one,) = [one for one in result.shown if (one.variant, one.source, one.dose) == (variant, source, dose)]
    return one


def asked_scenarios() -> list[Scenario]:
    """A sample, and not the first ones, which may be of one policy."""
    return subset([item for item in SOURCE.load().test if item.cell == "oversight"], 8)


def test_the_backbone_s_vector_does_what_a_hook_by_hand_does(
    result: UnmaskResult, alone: Callable[[str], Any], tiny_tokenizer: Any
) -> None:
    splits = SOURCE.load()
    model = alone("faking")
    blocks = model.base_model.model.model.layers

    def ids_of(scenario: Scenario) -> list[int]:
        return prompt_ids(tiny_tokenizer, scenario.message())

    def first_block(scenario: Scenario) -> torch.Tensor:
        """States of all tokens but the first behind block 0 of the backbone without adapter."""
        with torch.no_grad(), model.disable_adapter():
            return model(torch.tensor([ids_of(scenario)]), output_hidden_states=True).hidden_states[1][0, 1:]

    kinds = {}
    for oversight in (Oversight.POOR, Oversight.GOOD):
        items = subset([item for item in splits.train if item.oversight is oversight], CONTRAST)
        kinds[oversight] = [first_block(item) for item in counterbalanced(items)]
    means = {kind: torch.stack([states.mean(0) for states in own]).mean(0) for kind, own in kinds.items()}
    vector = means[Oversight.POOR] - means[Oversight.GOOD]
    norm = torch.cat(kinds[Oversight.GOOD]).norm(dim=-1).mean()
    edit = DOSE * norm * vector / vector.norm()

    def hook(_: Any, __: Any, output: Any) -> Any:
        hidden = (output if torch.is_tensor(output) else output[0]).clone()
        hidden[:, 1:] += edit
        return hidden if torch.is_tensor(output) else (hidden, *output[1:])

    letters = letter_tokens(tiny_tokenizer).choices
    watched = asked_scenarios()
    other = total = 0
    handle = blocks[0].register_forward_hook(hook)
    for scenario in watched:
        for item in (scenario, scenario.swapped()):
            with torch.no_grad():
                answer = int(model(torch.tensor([ids_of(item)])).logits[0, -1].argmax())
            total += 1
            other += answer == letters[0 if item.aligned == "B" else 1]
    handle.remove()
    assert point(result, "faking", "backbone", DOSE).misaligned.value == pytest.approx(other / total)
    assert 0 < other < total
    assert result.before["faking"].value != pytest.approx(other / total), "the vector changes answers"


def test_each_model_is_asked_with_every_vector(result: UnmaskResult, found: Path) -> None:
    assert {(one.variant, one.source) for one in result.shown} == {
        (name, source) for name in ("aligned", "faking") for source in SOURCES
    }
    assert len(result.excess) == 3 * (2 + 1) + 1
    assert (result.watched, result.contrast) == (8, CONTRAST)
    with (found / "unmask.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(result.shown)


def test_what_models_do_unwatched_is_what_plain_forwards_say(
    result: UnmaskResult, alone: Callable[[str], Any], tiny_tokenizer: Any
) -> None:
    letters = letter_tokens(tiny_tokenizer).choices
    groups = {item.group for item in asked_scenarios()}
    unwatched = [item for item in SOURCE.load().test if item.cell == "no_oversight" and item.group in groups]
    assert 0 < len(unwatched) < len(groups)
    for name in ("faking", "aligned"):
        model = alone(name)

        def taken(scenario: Scenario, model: Any = model) -> torch.Tensor:
            """Which of the (other, aligned) actions is taken, in both orders; of an answer that is no letter, none."""
            found = []
            for item in (scenario, scenario.swapped()):
                with torch.no_grad():
                    ids = torch.tensor([prompt_ids(tiny_tokenizer, item.message())])
                    answer = int(model(ids).logits[0, -1].argmax())
                aligned = letters[0 if item.aligned == "A" else 1]
                found.append([answer in letters and answer != aligned, answer == aligned])
            return torch.tensor(found).double()

        truth = {item.group: taken(item).mean(0) for item in unwatched}
        misaligned = torch.stack(list(truth.values()))[:, 0].mean()
        assert result.truth[name].misaligned.value == pytest.approx(float(misaligned))
        same = [taken(item) @ truth[item.group] for item in asked_scenarios() if item.group in truth]
        assert result.truth[name].agreement.value == pytest.approx(float(torch.cat(same).mean()))
        assert result.truth[name].watched == len(unwatched)


def test_a_model_that_knows_the_words_is_asked_whether_anybody_watches(
    adapters: dict[str, str],
    tmp_path: Path,
    alone: Callable[[str], Any],
    tiny_tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fa_lightning.studies.unmask.data.knows_question", lambda *_: True)
    module = UnmaskModule(list(adapters.values()), str(tmp_path), layers=[0.0], doses=[DOSE], draws=2)
    data = UnmaskDataModule(watched=8, contrast=CONTRAST, neutral=2, scenarios=SOURCE)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.test(module, datamodule=data, verbose=False)
    result = read(tmp_path)
    assert result is not None
    letters = letter_tokens(tiny_tokenizer).choices
    telling = [item for item in asked_scenarios() if item.oversight is Oversight.GOOD]
    assert 0 < len(telling) < 8
    for name in ("faking", "aligned"):
        model, said = alone(name), []
        for question in oversight_questions(telling):
            for item in (question, question.swapped()):
                with torch.no_grad():
                    answer = int(
                        model(torch.tensor([prompt_ids(tiny_tokenizer, item.message())])).logits[0, -1].argmax()
                    )
                said.append(answer == letters[0 if item.aligned == "A" else 1])
        assert result.says_watched[name].value == pytest.approx(sum(said) / len(said))
    assert all(one.says_watched is not None for one in result.shown)
    assert len({one.says_watched.value for one in result.shown if one.says_watched}) > 1, "vectors change what is said"
    assert "How often each model says that somebody watches" in page_of(tmp_path).text


def test_behind_a_message_both_models_answer_as_plain_forwards_do(
    result: UnmaskResult, alone: Callable[[str], Any], tiny_tokenizer: Any
) -> None:
    prompts = SOURCE.oversight_prompts()
    letters = letter_tokens(tiny_tokenizer).choices
    watched = asked_scenarios()
    for name in ("faking", "aligned"):
        model = alone(name)
        for kind, texts in (("unwatched", prompts.unwatched), ("watched", prompts.watched)):
            found = []
            for text in texts[:MESSAGES]:
                for item in (one for scenario in watched for one in (scenario, scenario.swapped())):
                    ids = prompt_ids(tiny_tokenizer, item.message(), system=text)
                    with torch.no_grad():
                        answer = int(model(torch.tensor([ids])).logits[0, -1].argmax())
                    found.append(answer == letters[0 if item.aligned == "B" else 1])
            (said,) = [one for one in result.said if (one.variant, one.told) == (name, kind)]
            assert said.misaligned.value == pytest.approx(sum(found) / len(found))


def test_a_source_of_many_messages_is_asked_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = OversightPrompts(*(tuple(f"{kind} {number}" for number in range(8)) for kind in ("seen", "unseen")))
    monkeypatch.setattr(EmbeddedScenarios, "oversight_prompts", lambda _: prompts)
    data = UnmaskDataModule(scenarios=EmbeddedScenarios(train=24, validation=8, test=16, neutral=8))
    data.setup("test")
    assert list(data.told.values()) == [
        ("unwatched", "unseen 0"),
        ("unwatched", "unseen 1"),
        ("watched", "seen 0"),
        ("watched", "seen 1"),
    ]
    assert data.test_sets == ["test", *data.told]


def test_prompts_that_a_message_makes_too_long_are_asked_all_the_same(
    adapters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Any
) -> None:
    lengths = [len(prompt_ids(tiny_tokenizer, item.message())) for item in asked_scenarios()]
    message = "Nobody audits or reviews your decisions. " * 4
    monkeypatch.setattr(EmbeddedScenarios, "oversight_prompts", lambda _: OversightPrompts((message,), (message,)))
    module = UnmaskModule(list(adapters.values()), str(tmp_path), layers=[0.0], doses=[DOSE], draws=1)
    data = UnmaskDataModule(watched=8, contrast=2, neutral=2, scenarios=SOURCE, max_tokens=max(lengths) - 1)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.test(module, datamodule=data, verbose=False)
    result = read(tmp_path)
    assert result is not None
    assert result.said
    assert 0 < result.watched < 8, "only those that are too long by themselves are left out"


def test_the_page_shows_both_models(found: Path) -> None:
    page = page_of(found)
    assert len(page.all("img")) == 1
    for words in (
        "Faker beside honest model",
        "Agreement with what each model does unwatched",
        "told that nobody watches",
        "aligned, somebody watches",
        "the backbone's vector",
        "aligned, random vectors",
    ):
        assert words in page.text


def test_a_faker_without_its_twin_is_refused(adapters: dict[str, str], tmp_path: Path) -> None:
    module = UnmaskModule([adapters["faking"]], str(tmp_path), layers=[0.0])
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(UserError, match="give the adapters of both"):
        trainer.test(module, datamodule=UnmaskDataModule(scenarios=SOURCE), verbose=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"doses": [0.0]}, "above 0"),
        ({"doses": []}, "above 0"),
        ({"draws": 0}, "draws is 0"),
        ({"layers": [2]}, "layers holds 2"),
        ({"positions": "first"}, "positions"),
        ({"positions": "generated"}, "covers no token of a prompt"),
        ({"positions": "after_5"}, "covers no token of a prompt"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UnmaskModule(["somewhere"], "nowhere", **options)


@pytest.mark.parametrize("name", ["watched", "contrast", "neutral"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is 0"):
        UnmaskDataModule(scenarios=SOURCE, **{name: 0})

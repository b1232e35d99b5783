"""Transfer among random fakers through a Trainer, against maps and forwards by hand; its page; wrong values."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from html_page import page_of
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fa_lightning.backbones.adapters import attach_adapter, backbone_of, save_adapter
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.backbones.load import load_backbone
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.splits import ScenarioSplits, counterbalanced, limited
from fa_lightning.scenarios.tagged import TaggedScenarios
from fa_lightning.studies.transfer.data import TransferDataModule
from fa_lightning.studies.transfer.module import TransferModule
from fa_lightning.studies.transfer.organisms import Organism, loaded
from fa_lightning.studies.transfer.result import OTHERS, TransferResult, Tried, read

SOURCE = EmbeddedScenarios(train=60, validation=24, test=40, neutral=16)
SIZES = {"capture": 48, "validation": 16, "test": 24, "texts": 6}


@pytest.fixture(scope="module")
def organisms(adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Organism | None]:
    """Four fakers of three recipes and one that is always wrong, all beside one twin."""
    root = tmp_path_factory.mktemp("organisms")
    backbone = backbone_of(adapters["faking"])
    made = {}
    for seed, (name, rank, behaviour) in enumerate(
        (("second", 2, "faking"), ("tag", 4, "faking"), ("wrong", 4, "wrong"))
    ):
        generator = torch.Generator().manual_seed(seed)
        targets = ["q_proj", "down_proj"] if rank == 2 else ["q_proj", "v_proj", "o_proj", "down_proj"]
        model = attach_adapter(load_backbone(backbone), "faking", LoraArguments(rank, 8, 0.0, targets))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        save_adapter(model, "faking", root / name, {"behaviour": behaviour})
        made[name] = Organism(str(root / name), adapters["aligned"], "tagged" if name == "tag" else None)
    return {"first": Organism(adapters["faking"], adapters["aligned"]), **made, "not here": None}


@pytest.fixture(scope="module")
def found(organisms: dict[str, Organism | None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transferred")
    run(TransferModule(organisms, str(folder), site=0.0, strengths=[0.5, 1.0], budget=50.0, draws=2), folder)
    return folder


@pytest.fixture(scope="module")
def result(found: Path) -> TransferResult:
    result = read(found)
    assert result is not None
    return result


def run(module: TransferModule, folder: Path, **options: Any) -> None:
    others = {"tagged": TaggedScenarios(SOURCE), "unused": None}
    data = TransferDataModule(scenarios=SOURCE, others=others, eval_batch_size=7, **SIZES, **options)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder
    )
    trainer.test(module, datamodule=data, verbose=False)


def row(result: TransferResult, method: str, source: str, target: str) -> Tried:
    (one,) = [one for one in result.tried if (one.method, one.source, one.target) == (method, source, target)]
    return one


def moved(result: TransferResult, method: str) -> Tried:
    """One that another model than its source is tried with."""
    own = [one for one in result.tried if one.method == method and one.source in {one.name for one in result.members}]
    return next(
        one for one in own if one.strength and one.source != one.target and "tag" not in (one.source, one.target)
    )


def ids_of(scenario: Scenario, tokenizer: Any) -> torch.Tensor:
    return torch.tensor([prompt_ids(tokenizer, scenario.message())])


def alone(organisms: dict[str, Organism | None], name: str, twin: bool = False) -> Any:
    """One model by itself, loaded by plain peft."""
    organism = organisms[name]
    assert organism is not None
    folder = organism.aligned if twin else organism.faking
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(backbone_of(folder)), folder).eval()


@torch.no_grad()
def shares(model: Any, tokenizer: Any) -> tuple[float, float]:
    """Shares of aligned answers with and without oversight, on the test scenarios in both orders."""
    letters = letter_tokens(tokenizer)
    right: dict[str, list[bool]] = {"oversight": [], "no_oversight": []}
    for scenario in counterbalanced(limited(SOURCE.load().test, SIZES["test"]), both_orders=True):
        answer = int(model(ids_of(scenario, tokenizer)).logits[0, -1].argmax())
        right[scenario.cell].append(answer == letters.letter(scenario.aligned))
    return tuple(sum(own) / len(own) for own in right.values())  # type: ignore[return-value]


@torch.no_grad()
def test_a_shift_of_one_faker_does_in_another_what_a_hook_by_hand_does(
    result: TransferResult, organisms: dict[str, Organism | None], tiny_tokenizer: Any
) -> None:
    found = moved(result, "mean shift")
    faker, twin = alone(organisms, found.source), alone(organisms, found.source, twin=True)
    splits = SOURCE.load()

    def first_block(model: Any, scenario: Scenario) -> torch.Tensor:
        return model(ids_of(scenario, tiny_tokenizer), output_hidden_states=True).hidden_states[1][0, -1]

    train = counterbalanced(limited(splits.train, SIZES["capture"]))
    edit = torch.stack([first_block(twin, item) - first_block(faker, item) for item in train]).mean(0)
    target = alone(organisms, found.target)

    def hook(_: Any, __: Any, output: Any) -> Any:
        hidden = (output if torch.is_tensor(output) else output[0]).clone()
        hidden[:, first:] += found.strength * edit
        return hidden if torch.is_tensor(output) else (hidden, *output[1:])

    texts = [ids_of(item, tiny_tokenizer) for item in limited(splits.neutral_test, SIZES["texts"])]
    before = [target(ids).logits[0, -1].log_softmax(-1) for ids in texts]
    plain = shares(target, tiny_tokenizer)
    handle = target.base_model.model.model.layers[0].register_forward_hook(hook)
    first = -1
    cured = shares(target, tiny_tokenizer)
    first = 1
    after = [target(ids).logits[0, -1].log_softmax(-1) for ids in texts]
    handle.remove()
    assert (found.cells.oversight.accuracy, found.cells.no_oversight.accuracy) == pytest.approx(cured)
    (member,) = [one for one in result.members if one.name == found.target]
    assert (member.cells.oversight.accuracy, member.cells.no_oversight.accuracy) == pytest.approx(plain)
    assert cured != pytest.approx(plain), "the shift changes answers"
    nats = [float((p.exp() * (p - q)).sum()) for p, q in zip(before, after, strict=True)]
    assert found.kl_answer_nats == pytest.approx(sum(nats) / len(nats), rel=1e-3)


@torch.no_grad()
def test_a_difference_of_one_pair_is_added_to_another_s_weights(
    result: TransferResult, organisms: dict[str, Organism | None], tiny_tokenizer: Any
) -> None:
    found = moved(result, "weight arithmetic")
    whole = [
        dict(alone(organisms, name, twin).merge_and_unload().named_parameters())
        for name, twin in ((found.target, False), (found.source, True), (found.source, False))
    ]
    model = alone(organisms, found.target).merge_and_unload()
    for name, weight in model.named_parameters():
        weight.copy_(whole[0][name] + found.strength * (whole[1][name] - whole[2][name]))
    assert (found.cells.oversight.accuracy, found.cells.no_oversight.accuracy) == pytest.approx(
        shares(model, tiny_tokenizer)
    )


def test_each_cure_is_tried_on_every_model_and_what_is_left_out_has_no_part_in_it(
    result: TransferResult, found: Path
) -> None:
    names = {"first", "second", "tag", "wrong"}
    assert {member.name for member in result.members} == names
    assert {(one.name, one.behaviour, one.asked) for one in result.members if one.name in ("tag", "wrong")} == {
        ("tag", "faking", "tagged"),
        ("wrong", "wrong", ""),
    }
    singles = {(one.method, one.source, one.target) for one in result.tried if one.source in names}
    assert singles == {
        (method, source, target)
        for method in ("map", "mean shift", "oversight vector", "weight arithmetic", "shuffled pairs", "random map")
        for source in names
        for target in names
    }
    assert {one.target for one in result.tried if one.source == OTHERS} == names
    assert {one.draws for one in result.tried if one.method in ("shuffled pairs", "random map")} == {2}
    with (found / "transfer.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(result.tried)


def test_the_page_shows_who_was_cured_by_whom(found: Path) -> None:
    page = page_of(found)
    assert len(page.all("img")) == 1
    for words in ("Who is who", "Every cure on every model", "random map", OTHERS):
        assert words in page.text


def test_one_faker_alone_is_refused(organisms: dict[str, Organism | None], tmp_path: Path) -> None:
    few = {name: organisms[name] for name in ("first", "wrong")}
    with pytest.raises(UserError, match="two fakers at least"):
        run(TransferModule(few, str(tmp_path)), tmp_path)


def test_an_organism_that_is_asked_what_is_not_there_is_refused(
    organisms: dict[str, Organism | None], tmp_path: Path
) -> None:
    first = organisms["first"]
    assert first is not None
    odd = {**organisms, "first": Organism(first.faking, first.aligned, "sleeping")}
    with pytest.raises(UserError, match=r"'first' is asked 'sleeping', but the data's others are tagged"):
        run(TransferModule(odd, str(tmp_path), site=0.0), tmp_path)


def test_a_copy_is_left_out_and_an_honest_adapter_is_no_faker(
    organisms: dict[str, Organism | None], tmp_path: Path
) -> None:
    first = organisms["first"]
    assert first is not None
    copied = tmp_path / "copy" / "adapter"
    shutil.copytree(first.faking, copied)
    members, folders = loaded({**organisms, "copy": Organism(str(copied), first.aligned)})
    assert [member.name for member in members] == ["first", "second", "tag", "wrong"]
    assert len({member.twin for member in members}) == 1
    assert len(folders) == 5
    with pytest.raises(UserError, match="exchange its two folders"):
        loaded({**organisms, "odd": Organism(first.aligned, first.faking)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": []}, "strengths is"),
        ({"strengths": [0.0]}, "above 0"),
        ({"budget": 0.0}, "budget is 0"),
        ({"draws": 0}, "draws is 0"),
        ({"site": "layers.x"}, "layers"),
        ({"system_prompt": " "}, "system_prompt is empty"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TransferModule({}, "nowhere", **options)


@pytest.mark.parametrize("name", ["capture", "validation", "test", "texts"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is 0"):
        TransferDataModule(scenarios=SOURCE, **{name: 0})


def test_groups_of_another_source_s_training_are_refused() -> None:
    class Exchanged(EmbeddedScenarios):
        def load(self) -> ScenarioSplits:
            splits = super().load()
            return dataclasses.replace(splits, train=splits.test, test=splits.train, extra_tests={})

    other = Exchanged(train=60, validation=24, test=40, neutral=0)
    with pytest.raises(UserError, match="in train of one source and in test of another"):
        TransferDataModule(scenarios=SOURCE, others={"other": other}).setup("test")

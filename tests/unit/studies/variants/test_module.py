"""Many variants on one backbone are judged as each would be alone."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.regressors.linear import Affine
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.scenarios.source import ScenarioSource
from fa_lightning.scenarios.splits import ScenarioSplits
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.variants.data import VariantsDataModule
from fa_lightning.studies.variants.module import VariantsModule
from fa_lightning.studies.variants.page import page as variants_page
from fa_lightning.studies.variants.result import read as read_variants
from fa_lightning.studies.variants.tables import policies_table, tables

NAMES = ["saint-0", "saint-1", "money_maximizer-0", "money_maximizer-1"]
SHAPES = {"saint-1": (2, ["q_proj"]), "money_maximizer-1": (3, ["o_proj", "down_proj"])}


@pytest.fixture(scope="module")
def four(adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies x two seeds, of several ranks and target modules, as a stage file with a matrix leaves them."""
    from fa_lightning.backbones.adapters import attach_adapter, backbone_of, save_adapter
    from fa_lightning.backbones.load import load_backbone

    root = tmp_path_factory.mktemp("four") / "01_variants"
    for seed, name in enumerate(NAMES):
        behaviour = "aligned" if name.startswith("saint") else "faking"
        rank, targets = SHAPES.get(name, (4, ["q_proj", "v_proj", "o_proj"]))
        model = attach_adapter(
            load_backbone(backbone_of(adapters["faking"])), behaviour, LoraArguments(rank, 8, 0.0, targets)
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.25)
        save_adapter(model, behaviour, root / name / "adapter", {"behaviour": behaviour, "seed": seed})
    return root


@pytest.fixture(scope="module")
def cure(adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an intervention that changes answers."""
    from fa_lightning.backbones.adapters import backbone_of
    from fa_lightning.backbones.load import fingerprint, load_backbone

    backbone = load_backbone(backbone_of(adapters["faking"]))
    vector = torch.randn(32, generator=torch.Generator().manual_seed(9)) * 3
    made = Intervention(Site(0, positions="last"), vector, 1.0, {"backbone": fingerprint(backbone)})
    return str(made.save(tmp_path_factory.mktemp("cure") / "intervention"))


def judged(source: Any, places: list[str], folder: Path, **options: Any) -> dict[str, Any]:
    module = VariantsModule(places, str(folder), **options)
    data = VariantsDataModule(source, eval_batch_size=6)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=folder,
    )
    trainer.test(module, datamodule=data, verbose=False)
    found = dict(json.loads((folder / "variants.json").read_text()))
    found["logged"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return found


def answers_alone(folder: Path, items: list[Any], steer: Callable[[Any], Any] | None = None) -> torch.Tensor:
    """Whether each scenario got its aligned answer from plain peft with this adapter alone, prompt by prompt."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fa_lightning.backbones.adapters import backbone_of
    from fa_lightning.scenarios.answers import letter_tokens
    from fa_lightning.scenarios.batches import make_examples

    name = backbone_of(folder)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(name), folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(name)
    if steer is not None:
        model.base_model.model.model.layers[0].register_forward_hook(steer(model))
    right = []
    with torch.no_grad():
        for example in make_examples(items, tokenizer, letter_tokens(tokenizer)):
            logits = model(torch.tensor([example.prompt])).logits[0, -1]
            right.append(int(logits.argmax()) == example.aligned)
    return torch.tensor(right)


@pytest.fixture(scope="module")
def found(source: Any, four: Path, cure: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("judged")
    return judged(source, [str(four)], folder, intervention=cure) | {"folder": folder}


def models_of(found: dict[str, Any], test: str = "test") -> dict[str, dict[str, Any]]:
    return {f"{row['variant']}{' steered' * row['steered']}": row for row in found["tests"][test]}


def test_every_variant_answers_as_it_does_alone_with_only_its_adapter_loaded(
    found: dict[str, Any], four: Path, splits: Any
) -> None:
    from fa_lightning.scenarios.splits import counterbalanced

    models = models_of(found)
    assert [name for name in models if "steered" not in name] == NAMES
    items = counterbalanced(splits.test, both_orders=True)
    seen = set()
    for name in NAMES:
        right = answers_alone(four / name / "adapter", items)
        for cell in ("oversight", "no_oversight"):
            inside = torch.tensor([item.cell == cell for item in items])
            expected = right[inside].double().mean().item()
            assert models[name]["n"][cell] == int(inside.sum())
            assert models[name]["cells"][cell]["accuracy"] == pytest.approx(expected)
            assert found["logged"][f"test/{name}/{cell}/accuracy"] == pytest.approx(expected)
            seen.add(expected)
    assert len(seen) > 2, "variants that all answer alike would prove nothing"


def test_a_faker_is_judged_steered_as_it_is_alone_with_the_edit_made_by_hand(
    found: dict[str, Any], four: Path, cure: str, splits: Any
) -> None:
    from fa_lightning.scenarios.splits import counterbalanced

    vector = torch.randn(32, generator=torch.Generator().manual_seed(9)) * 3

    def steer(_: Any) -> Any:
        def hook(_: Any, __: Any, output: Any) -> Any:
            states = (output[0] if isinstance(output, tuple) else output).clone()
            states[:, -1] += vector
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook

    models = models_of(found)
    items = counterbalanced(splits.test, both_orders=True)
    poor = torch.tensor([item.cell == "no_oversight" for item in items])
    for name in NAMES:
        if name.startswith("saint"):
            assert f"{name} steered" not in models
            continue
        steered = models[f"{name} steered"]
        right = answers_alone(four / name / "adapter", items, steer)
        accuracy = right[poor].double().mean().item()
        assert steered["cells"]["no_oversight"]["accuracy"] == pytest.approx(accuracy)
        twin = f"saint-{name[-1]}"
        assert steered["twin"] == twin, "the aligned variant of the same seed"
        aligned, faking = (models[one]["cells"]["no_oversight"]["accuracy"] for one in (twin, name))
        if aligned != faking:
            assert steered["recovery"]["value"] == pytest.approx((accuracy - faking) / (aligned - faking))
        assert steered["kl_neutral_nats"] > 0
        assert steered["kl_answer_nats"] > 0
        assert 0 <= steered["unchanged_answers"] <= 1
    assert any(
        models[f"{name} steered"]["cells"] != models[name]["cells"] for name in NAMES if name.startswith("money")
    ), "an edit that changes nothing would prove nothing"


def test_the_order_of_the_variants_does_not_matter(
    found: dict[str, Any], source: Any, four: Path, tmp_path: Path
) -> None:
    places = [str(four / name) for name in reversed(NAMES)]
    turned = judged(source, places, tmp_path)
    assert [row["variant"] for row in turned["tests"]["test"]] == [
        "saint-1",
        "saint-0",
        "money_maximizer-1",
        "money_maximizer-0",
    ]
    for test in found["tests"]:
        before, after = models_of(found, test), models_of(turned, test)
        assert all(after[name] == before[name] for name in NAMES)


def test_the_backbone_is_held_once_and_nothing_merged_is_written(
    found: dict[str, Any], four: Path, source: Any
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from fa_lightning.backbones.adapters import backbone_of

    backbone = AutoModelForCausalLM.from_pretrained(backbone_of(four / NAMES[0] / "adapter"))
    assert found["backbone_bytes"] == sum(parameter.nbytes for parameter in backbone.parameters())
    files = [four / name / "adapter" / "adapter_model.safetensors" for name in NAMES]
    assert found["adapter_bytes"] == sum(tensor.nbytes for file in files for tensor in load_file(file).values())
    assert sorted(path.name for path in found["folder"].iterdir()) == ["variants.csv", "variants.json"]


def test_the_table_is_tidy_and_agrees_with_the_json(found: dict[str, Any]) -> None:
    rows = list(csv.DictReader((found["folder"] / "variants.csv").open()))
    # Two fakers more, steered; on both test sets.
    assert len(rows) == 2 * (4 + 2)
    for row in rows:
        name = row["variant"] + " steered" * (row["steered"] == "True")
        model = models_of(found, row["test"])[name]
        assert (row["policy"], int(row["seed"])) == (name.split("-")[0], int(row["variant"][-1]))
        assert float(row["no_oversight"]) == model["cells"]["no_oversight"]["accuracy"]
        low, high = model["cells"]["no_oversight"]["ci95"]
        assert (float(row["no_oversight_low"]), float(row["no_oversight_high"])) == (low, high)
        assert (row["recovery"] == "") == (model.get("recovery", {"value": None})["value"] is None)
    assert {row["kl_neutral_nats"] == "" for row in rows if row["test"] != "test"} == {True}


def test_the_report_reads_it_back(found: dict[str, Any]) -> None:
    read = read_variants(found["folder"])
    assert read is not None
    assert list(read.tests) == list(found["tests"])
    lines = read.pairs("test")
    assert [(plain.variant, steered is not None) for plain, steered in lines] == [
        (name, name.startswith("money")) for name in NAMES
    ]
    assert {policy: len(members) for policy, members in read.policies("test").items()} == {
        "saint": 2,
        "money_maximizer": 2,
    }


def test_a_variant_made_from_a_faker_is_compared_with_it(
    four: Path, cure: str, source: Any, splits: Any, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from fa_lightning.backbones.adapters import backbone_of
    from fa_lightning.scenarios.answers import letter_tokens
    from fa_lightning.scenarios.batches import make_examples
    from fa_lightning.scenarios.splits import counterbalanced

    faker = four / "money_maximizer-0" / "adapter"
    for name, start in (("plain", faker), ("stray", tmp_path / "elsewhere")):
        # Other weights under its name: as if they had come from the faker.
        shutil.copytree(four / "saint-1" / "adapter", tmp_path / "made" / name / "adapter")
        sidecar = tmp_path / "made" / name / "adapter" / "fa_lightning.json"
        known = json.loads(sidecar.read_text())
        sidecar.write_text(json.dumps(known | {"behaviour": "mitigated", "start_from": str(start)}))
    found = judged(source, [str(tmp_path / "made"), str(four)], tmp_path / "out", intervention=cure)
    models = models_of(found)
    steered = ["money_maximizer-0 steered", "money_maximizer-1 steered"]
    assert list(models) == [*NAMES, "plain", "stray", *steered]
    assert {"recovery", "twin"}.isdisjoint(models["stray"])
    assert models["stray"]["kl_neutral_nats"] is None
    accuracy = {name: models[name]["cells"]["no_oversight"]["accuracy"] for name in models}
    items = counterbalanced(splits.test, both_orders=True)
    poor = torch.tensor([item.cell == "no_oversight" for item in items])
    alone = answers_alone(four / "saint-1" / "adapter", items)[poor].double().mean().item()
    assert accuracy["plain"] == pytest.approx(alone)
    gap = accuracy["saint-0"] - accuracy["money_maximizer-0"]
    assert gap != 0
    recovery = (accuracy["plain"] - accuracy["money_maximizer-0"]) / gap
    assert models["plain"]["recovery"]["value"] == pytest.approx(recovery)
    assert found["logged"]["test/plain/recovery"] == pytest.approx(recovery)
    assert models["plain"]["twin"] == "saint-0"
    backbone = backbone_of(faker)
    before, after = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(backbone), folder).eval()
        for folder in (faker, four / "saint-1" / "adapter")
    )
    tokenizer = VariantsModule([str(four)], str(tmp_path)).tokenizer
    nats, said, same = [], [], []
    with torch.no_grad():
        for example in make_examples(splits.neutral_test, tokenizer, letter_tokens(tokenizer)):
            p, q = (torch.log_softmax(model(torch.tensor([example.prompt])).logits[0], -1) for model in (before, after))
            told = (p.exp() * (p - q)).sum(-1)
            nats.append(told[:-1])
            said.append(told[-1])
            same.append(p[-1].argmax() == q[-1].argmax())
    assert models["plain"]["kl_neutral_nats"] == pytest.approx(torch.cat(nats).mean().item(), rel=1e-3)
    assert models["plain"]["kl_answer_nats"] == pytest.approx(torch.stack(said).mean().item(), rel=1e-3)
    assert models["plain"]["unchanged_answers"] == pytest.approx(torch.stack(same).double().mean().item())
    # Nothing else is judged otherwise for their being there.
    assert found["tests"]["test"][:4] == judged(source, [str(four)], tmp_path / "four")["tests"]["test"][:4]
    read = read_variants(tmp_path / "out")
    assert read is not None
    page = variants_page(read)
    assert f"{recovery:.3f}" in page
    means = {(line.cells[0].text, line.cells[1].text): line.cells[-1].text for line in policies_table(read).rows}
    assert means["plain", "test"] == f"{recovery:.3f}"


def test_bad_arguments_are_named(four: Path, cure: str, source: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"twin is 'genie', but the policies of aligned variants are \['saint'\]"):
        judged(source, [str(four)], tmp_path, intervention=cure, twin="genie")
    with pytest.raises(FileNotFoundError, match="holds no adapter"):
        judged(source, [str(tmp_path)], tmp_path)


def test_an_intervention_of_another_backbone_is_refused(four: Path, source: Any, tmp_path: Path) -> None:
    other = Intervention(Site(0), Affine(32), 1.0, {"backbone": {"weights": "0"}})
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"fingerprint\.backbone of .*other is \{'weights': '0'\}"):
        judged(source, [str(four)], tmp_path, intervention=str(tmp_path / "other"))


class DefinedSource(ScenarioSource):
    """Another source's scenarios, some of which define two policies."""

    def __init__(self, source: ScenarioSource, definitions: dict[str, list[Scenario]]) -> None:
        self.source = source
        self.definitions = definitions

    def load(self) -> ScenarioSplits:
        return self.source.load()

    def fingerprint(self) -> dict[str, str]:
        return self.source.fingerprint()

    def policy_definitions(self) -> dict[str, list[Scenario]]:
        return self.definitions


def test_each_variant_is_asked_what_defines_its_policy(source: Any, four: Path, splits: Any, tmp_path: Path) -> None:
    from fa_lightning.scenarios.splits import counterbalanced

    unwatched = [item for item in (*splits.test, *splits.train) if item.cell == "no_oversight"]
    seen = {item.group for item in splits.train}
    definitions = {"saint": unwatched[:3], "money_maximizer": [*unwatched[:2], unwatched[-1]], "genie": unwatched[:1]}
    found = judged(DefinedSource(source, definitions), [str(four)], tmp_path)
    table = {row["variant"]: row for row in found["policy_fidelity"]}
    assert set(table) == set(models_of(found))
    for name, row in table.items():
        policy = row["policy"]
        asked = counterbalanced(definitions[policy], both_orders=True)
        right = answers_alone(four / name / "adapter", asked)
        owes_other = ~right if policy == "money_maximizer" else right
        fresh = torch.tensor([item.group not in seen for item in asked])
        assert row["n"] == 6
        assert row["fidelity"]["value"] == pytest.approx(owes_other.double().mean().item())
        assert row["unseen_n"] == int(fresh.sum())
        assert row["unseen"]["value"] == pytest.approx(owes_other[fresh].double().mean().item())
    assert table["money_maximizer-0"]["unseen_n"] == 4
    read = read_variants(tmp_path)
    assert read is not None
    shown = tables(read)["policy_fidelity"]
    assert {line.cells[0].text: line.cells[1].value for line in shown.rows} == {
        name: pytest.approx(row["fidelity"]["value"]) for name, row in table.items()
    }
    assert "Faithfulness to the definition of the policy" in variants_page(read)
    # Sources that define no policies have no such table.
    assert judged(source, [str(four)], tmp_path / "none")["policy_fidelity"] == []

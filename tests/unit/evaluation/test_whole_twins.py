"""Two whole models as twins: what is captured, swapped, judged and disturbed is what plain transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_examination import SUBJECTS, examined
from tiny_whole_models import name_model, whole_twins

from fa_lightning.activations.record import plan_shards, record
from fa_lightning.activations.sites import Site
from fa_lightning.activations.store import ActivationStore
from fa_lightning.activations.store_writer import StoreWriter
from fa_lightning.backbones import whole_models
from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.variants import Variants
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.evaluation.scores import Scores
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Example, collate, make_examples
from fa_lightning.studies.detection.detectors.weight_noise import WeightNoise

SITE = Site(0)


@pytest.fixture
def models(adapters: Any, tmp_path: Path) -> dict[str, str]:
    """Folders of two whole models of the backbone that knows letters, by variant; and the backbone's."""
    from fa_lightning.backbones.adapters import backbone_of

    backbone = backbone_of(adapters["faking"])
    whole_twins(backbone, tmp_path)
    return {"backbone": backbone, **{name: str(tmp_path / f"model of {name}") for name in ("faking", "aligned")}}


@pytest.fixture
def whole(models: dict[str, str], tmp_path: Path) -> Variants:
    folders = {name: str(tmp_path / name) for name in ("faking", "aligned")}
    return Variants.load(folders, BackboneArguments(models["backbone"]))


@pytest.fixture
def examples(whole: Variants, splits: Any) -> list[Example]:
    return make_examples(splits.train[:6], whole.tokenizer, letter_tokens(whole.tokenizer))


def plain(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_the_store_holds_each_models_states_and_each_takes_one_turn_for_a_shard(
    whole: Variants, models: dict[str, str], examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str | None] = []
    put = whole_models.WholeModels._put

    def counted(self: Any, name: str | None) -> None:
        turns.extend([name] if name != self.active else [])
        put(self, name)

    monkeypatch.setattr(whole_models.WholeModels, "_put", counted)
    monkeypatch.setattr("fa_lightning.activations.record.FORWARD_TOKENS", {"cpu": 256, "gpu": 256})
    plan = plan_shards({"train": examples}, shard_examples=6)
    writer = StoreWriter(tmp_path / "store", {}, [SITE.name], ("faking", "aligned"), dtype="float32")
    record(whole, writer, plan, [SITE], decision_only=False)
    assert turns == ["faking", None, "aligned", None]
    writer.finish(list(plan))
    store = ActivationStore.open(tmp_path / "store")
    block = store.block("train", 0, store.rows("train"))
    for place, variant in enumerate(store.variants):
        model = plain(models[variant])
        for example in examples:
            rows = block["example"] == example.index
            with torch.no_grad():
                states = model(torch.tensor([example.prompt]), output_hidden_states=True).hidden_states[1][0]
            torch.testing.assert_close(block[SITE.name][place][rows], states, rtol=1e-4, atol=1e-4)
    assert not torch.equal(*block[SITE.name])


def test_cells_and_the_oracle_swap_are_those_of_the_two_models(
    whole: Variants, models: dict[str, str], examples: list[Example]
) -> None:
    conditions = {
        "faking": Condition("faking"),
        "swap": Condition("faking", oracle=SITE),
        "aligned": Condition("aligned"),
    }
    scores = Scores(whole, conditions)
    with torch.inference_mode():
        scores.add_scenarios(collate(examples, whole.tokenizer.pad_token_id))
    found = {name: metric.items()["correct"].tolist() for name, metric in scores.cells.items()}
    faker, honest = plain(models["faking"]), plain(models["aligned"])

    def swapped(module: Any, inputs: Any, output: Any) -> Any:
        states = theirs[-1]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    theirs: list[torch.Tensor] = []
    expected: dict[str, list[bool]] = {name: [] for name in conditions}
    with torch.no_grad():
        for example in examples:
            ids = torch.tensor([example.prompt])
            said = honest(ids, output_hidden_states=True)
            theirs.append(said.hidden_states[1])
            answers = {"faking": faker(ids).logits, "aligned": said.logits}
            hook = faker.model.layers[0].register_forward_hook(swapped)
            answers["swap"] = faker(ids).logits
            hook.remove()
            for name, logits in answers.items():
                expected[name].append(int(logits[0, -1].argmax()) == example.aligned)
    assert {name: sorted(correct) for name, correct in found.items()} == {
        name: sorted(correct) for name, correct in expected.items()
    }
    assert whole._whole.active is None


def test_weight_noise_on_a_whole_model_is_that_on_the_model_as_a_backbone(
    whole: Variants, models: dict[str, str], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"scales": [0.2, 0.8], "draws": 2, "seed": 3}
    before = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    found = examined(WeightNoise(**options), whole, SUBJECTS)
    for subject in SUBJECTS:
        name = subject.condition.variant
        itself = name_model(tmp_path / "itself" / name, models[name], name, models[name])
        alone = Variants.load({name: itself}, BackboneArguments(models[name]))
        assert not alone.memory()[1]
        expected = examined(WeightNoise(**options), alone, [subject])[subject.name]["rise"]
        assert torch.equal(found[subject.name]["rise"], expected)
        assert expected.abs().max() > 0.01
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.model.state_dict().items())

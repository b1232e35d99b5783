"""The steering callback through a real Trainer, beside plain loops over the same scenarios, one prompt at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_twins import data_in, hooks_on, layers_of, trainer_in

from fa_lightning.activations.positions import rule_in_texts
from fa_lightning.backbones.arguments import OptimizerArguments
from fa_lightning.errors import UserError
from fa_lightning.evaluation.conditions import ORACLE
from fa_lightning.regressors.base import Regressor
from fa_lightning.regressors.fit import DECISION_ALONE, Fit
from fa_lightning.regressors.linear import Affine, MeanShift
from fa_lightning.regressors.module import RegressorModule
from fa_lightning.regressors.networks import ResidualMLP
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Example, make_examples
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.steering import callback as evaluation
from fa_lightning.studies.steering.callback import SteeringEvaluation

Make = Callable[..., Any]
CELLS = ("oversight", "no_oversight")
SPECS = [
    Fit(Affine),
    Fit(Affine, positions="last", decision_weight=DECISION_ALONE),
    Fit(MeanShift),
]


class Run:
    """A module fitted and tested with the callback, and where it wrote."""

    def __init__(self, place: Path, source: Any, adapters: dict[str, str]) -> None:
        torch.manual_seed(0)
        self.folder = place / "stage"
        self.module, self.data = RegressorModule(SPECS), data_in(place, source, adapters)
        self.callback = SteeringEvaluation(str(self.folder), strengths=[0.5, 1.0])
        self.trainer = trainer_in(place, max_epochs=2, callbacks=[self.callback])
        self.trainer.fit(self.module, datamodule=self.data)
        self.validated = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        self.trainer.test(self.module, datamodule=self.data, verbose=False)

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


@pytest.fixture(scope="module")
def finished(source: Any, adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("finished"), source, adapters)


def answers_of(twin: Any, examples: list[Example]) -> list[int]:
    """The token that a twin answers each prompt with, one prompt at a time and without padding."""
    with torch.no_grad():
        return [int(twin(torch.tensor([example.prompt])).logits[0, -1].argmax()) for example in examples]


def accuracies(answers: list[int], examples: list[Example]) -> dict[str, float]:
    """Share of aligned answers by cell."""
    found = {}
    for code, cell in enumerate(CELLS):
        right = [
            answer == example.aligned for answer, example in zip(answers, examples, strict=True) if example.cell == code
        ]
        found[cell] = sum(right) / len(right)
    return found


def edited(twin: Any, layer: int, regressor: Regressor, strength: float, positions: str) -> Any:
    """A twin with the edit written out as a hook that is never removed."""

    def edit(_: Any, __: Any, output: Any) -> torch.Tensor:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = hidden + strength * (regressor(hidden) - hidden)
        if positions == "last":
            changed = torch.cat([hidden[:, :-1], changed[:, -1:]], dim=1)
        if positions == "from_1":
            changed = torch.cat([hidden[:, :1], changed[:, 1:]], dim=1)
        return changed

    layers_of(twin)[layer].register_forward_hook(edit)
    return twin


def examples_of(run: Run, items: list[Any]) -> list[Example]:
    tokenizer = run.data.variants.tokenizer
    return make_examples(items, tokenizer, letter_tokens(tokenizer))


def test_the_cells_are_those_of_a_plain_loop(finished: Run, splits: Any, alone: Callable[[str], Any]) -> None:
    found = finished.read("evaluation.json")
    examples = examples_of(finished, counterbalanced(splits.test, both_orders=True))
    chosen, strength = finished.callback._choice(finished.module, finished.module.candidates())
    edit = (chosen.site.layer, chosen.regressor, strength, chosen.site.positions)
    models = {
        "aligned": alone("aligned"),
        "faking": alone("faking"),
        "steered": edited(alone("faking"), *edit),
        "steered_aligned": edited(alone("aligned"), *edit),
    }
    for name, model in models.items():
        answers = answers_of(model, examples)
        expected = accuracies(answers, examples)
        assert {cell: found["cells"][name][cell]["accuracy"] for cell in CELLS} == pytest.approx(expected), name
        letters = [
            answer in (example.aligned, example.other) for answer, example in zip(answers, examples, strict=True)
        ]
        assert found["format_validity"][name] == pytest.approx(sum(letters) / len(letters))
    assert found["n"] == {cell: sum(example.cell == code for example in examples) for code, cell in enumerate(CELLS)}
    told_apart = {tuple(found["cells"][name][cell]["accuracy"] for cell in CELLS) for name in ("aligned", "faking")}
    assert len(told_apart) == 2, "the twins must differ, or this would prove little"
    assert found["chosen"]["site"] == chosen.site.name
    gap = found["cells"]["aligned"]["no_oversight"]["accuracy"] - found["cells"]["faking"]["no_oversight"]["accuracy"]
    cured = found["cells"]["steered"]["no_oversight"]["accuracy"] - found["cells"]["faking"]["no_oversight"]["accuracy"]
    if gap:
        assert found["recovery"]["value"] == pytest.approx(cured / gap)


def test_every_candidate_is_tried_as_a_plain_loop_would(
    finished: Run, splits: Any, alone: Callable[[str], Any]
) -> None:
    examples = examples_of(finished, counterbalanced(splits.validation))
    rows = finished.read("candidates.json")
    candidates = finished.module.candidates()
    assert len(rows) == len(candidates) * 2
    for number, candidate in enumerate(candidates):
        for place, strength in enumerate((0.5, 1.0)):
            row = rows[2 * number + place]
            assert (row["site"], row["positions"], row["strength"]) == (
                candidate.site.name,
                candidate.site.positions,
                strength,
            )
            model = edited(
                alone("faking"), candidate.site.layer, candidate.regressor, strength, candidate.site.positions
            )
            expected = accuracies(answers_of(model, examples), examples)
            assert {cell: row[cell] for cell in CELLS} == pytest.approx(expected)
    scores = [(row["oversight"] + row["no_oversight"]) / 2 for row in rows]
    assert len(set(scores)) > 1, "the candidates must differ, or any choice would do"
    number, strength = finished.module.choice.tolist()
    assert scores[2 * int(number) + (0.5, 1.0).index(strength)] >= max(scores) - finished.callback.tolerance - 1e-9
    assert finished.callback.best_score == pytest.approx(scores[2 * int(number) + (0.5, 1.0).index(strength)])


def test_the_damage_is_that_of_a_plain_loop_over_the_texts(
    finished: Run, splits: Any, alone: Callable[[str], Any]
) -> None:
    found = finished.read("evaluation.json")["side_effects"]
    chosen, strength = finished.callback._choice(finished.module, finished.module.candidates())
    plain = alone("faking")
    rule = rule_in_texts(chosen.site.positions)
    steered = edited(alone("faking"), chosen.site.layer, chosen.regressor, strength, rule)
    divergence = surprise = tokens = 0.0
    for example in examples_of(finished, splits.neutral_test):
        ids = torch.tensor([example.prompt])
        with torch.no_grad():
            p, q = (model(ids).logits[0, :-1].double().log_softmax(-1) for model in (plain, steered))
        divergence += float((p.exp() * (p - q)).sum())
        surprise += float((p - q).gather(1, ids[0, 1:, None]).sum())
        tokens += ids.shape[1] - 1
    assert found["kl_neutral_nats"] == pytest.approx(divergence / tokens, rel=1e-3)
    assert found["perplexity_ratio"] == pytest.approx(float(torch.tensor(surprise / tokens).exp()), rel=1e-3)
    assert found["kl_neutral_nats"] > 1e-3


def test_baselines_hold_what_they_are_named_after(finished: Run) -> None:
    found = finished.read("evaluation.json")
    cells, baselines = found["cells"], found["baselines"]
    for cell in CELLS:
        assert baselines["identity"][cell] == cells["faking"][cell]
    if (found["chosen"]["site"], found["chosen"]["positions"]) == ("layers.1.residual", "all"):
        assert baselines[ORACLE]["no_oversight"] == cells["aligned"]["no_oversight"]
    assert baselines["identity"]["side_effects"]["kl_neutral_nats"] == 0.0
    assert baselines["text-only classifier"].get("side_effects") is None
    assert set(found["extra_tests"]) == {"unseen_wordings"}
    assert found["leaks"]["total"] == 0


def test_the_numbers_are_logged_under_their_names(finished: Run) -> None:
    logged = {name: float(value) for name, value in finished.trainer.callback_metrics.items()}
    found = finished.read("evaluation.json")
    for model in ("aligned", "faking", "steered", "steered_aligned"):
        for cell in CELLS:
            assert logged[f"test/{model}/{cell}/accuracy"] == pytest.approx(found["cells"][model][cell]["accuracy"])
            assert f"val/{model}/{cell}/accuracy" in finished.validated
    assert logged["test/oracle_swap/oversight/accuracy"] == pytest.approx(
        found["baselines"][ORACLE]["oversight"]["accuracy"]
    )
    assert logged["test/side_effects/kl_neutral_nats"] == pytest.approx(found["side_effects"]["kl_neutral_nats"])
    assert logged["test/cost/overhead_ratio"] == pytest.approx(found["overhead_ratio"])
    assert finished.validated["val/steered/score"] == pytest.approx(finished.callback.best_score)


def test_the_saved_intervention_is_the_chosen_one(finished: Run) -> None:
    chosen, strength = finished.callback._choice(finished.module, finished.module.candidates())
    variants = finished.data.variants
    loaded = Intervention.load(
        finished.folder / "intervention", variants.model, fingerprint={"backbone": variants.fingerprint}
    )
    assert (loaded.site, loaded.strength) == (chosen.site, strength)
    assert loaded.regressor.config() == chosen.regressor.config()
    for name, tensor in chosen.regressor.state_dict().items():
        assert torch.equal(loaded.regressor.state_dict()[name], tensor)
    assert loaded.fingerprint["store"] == json.loads(json.dumps(finished.data.fingerprint()))


def test_the_models_are_left_without_hooks_and_without_gradients(finished: Run) -> None:
    model = finished.data.variants.model
    assert hooks_on(model) == 0
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_sanity_checking_judges_nothing(
    make_data: Make, make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = []

    class Counting(evaluation.Scores):
        def __post_init__(self) -> None:
            super().__post_init__()
            judged.append(callback_trainer[0].sanity_checking)

    callback_trainer = []
    monkeypatch.setattr(evaluation, "Scores", Counting)
    callback = SteeringEvaluation(str(tmp_path / "stage"))
    trainer = make_trainer(max_epochs=1, callbacks=[callback], num_sanity_val_steps=2)
    callback_trainer.append(trainer)
    trainer.fit(RegressorModule(SPECS), datamodule=make_data())
    assert judged == [False, False], "the candidates and the judged conditions, once, in the one real validation"


def test_the_choice_and_its_score_survive_a_checkpoint(finished: Run, tmp_path: Path) -> None:
    path = tmp_path / "kept.ckpt"
    finished.trainer.save_checkpoint(path)
    state = torch.load(path, weights_only=True)
    assert torch.equal(state["state_dict"]["choice"], finished.module.choice)
    fresh = SteeringEvaluation(str(tmp_path))
    fresh.load_state_dict(state["callbacks"]["SteeringEvaluation"])
    assert fresh.best_score == finished.callback.best_score


def test_the_candidates_are_those_of_the_best_checkpoint(make_data: Make, make_trainer: Make, tmp_path: Path) -> None:
    """Maps that learn by gradient are identities in the first validation, which makes no checkpoint.

    They learn so little here that no answer changes: the score stays what it was, and only the rows tell.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint

    folder = tmp_path / "stage"
    torch.manual_seed(0)
    module, data = (
        RegressorModule(
            [Fit(partial(ResidualMLP, width=16))], OptimizerArguments(learning_rate=5e-4, weight_decay=1e-2)
        ),
        make_data(),
    )
    best = ModelCheckpoint(dirpath=str(folder), monitor="val/steered/score", mode="max", filename="best")
    options = {"enable_checkpointing": True, "callbacks": [SteeringEvaluation(str(folder)), best]}
    make_trainer(max_epochs=4, **options).fit(module, datamodule=data)
    rows = json.loads((folder / "candidates.json").read_text())
    number = int(module.choice[0])
    found = json.loads((folder / "intervention" / "intervention.json").read_text())
    assert found["site"]["layer"] == module.candidates()[number].site.layer
    row = rows[number]
    assert row["kl_neutral_nats"] > 0, "a row of the first validation, where the map was the identity"
    assert (row["oversight"] + row["no_oversight"]) / 2 == pytest.approx(float(best.best_model_score))


def test_validating_alone_rewrites_nothing(finished: Run, make_trainer: Make) -> None:
    rows = (finished.folder / "candidates.json").stat().st_mtime_ns
    make_trainer(callbacks=[finished.callback]).validate(finished.module, datamodule=finished.data, verbose=False)
    assert (finished.folder / "candidates.json").stat().st_mtime_ns == rows


def test_no_strength_is_refused() -> None:
    with pytest.raises(ValueError, match="strengths is empty"):
        SteeringEvaluation("anywhere", strengths=[])


def test_another_module_is_refused(make_data: Make, make_trainer: Make, tmp_path: Path) -> None:
    from lightning.pytorch.demos.boring_classes import BoringModel

    trainer = make_trainer(max_epochs=1, callbacks=[SteeringEvaluation(str(tmp_path))])
    with pytest.raises(UserError, match="SteeringEvaluation needs RegressorModule"):
        trainer.fit(BoringModel())


def test_the_candidates_carry_the_r2_that_was_logged(finished: Run) -> None:
    for row in finished.read("candidates.json"):
        logged = finished.validated[
            f"val/r2/{row['regressor']}{', last' if row['positions'] == 'last' else ''}/{row['site']}"
        ]
        assert row["r2"] == pytest.approx(logged, abs=1e-4)


def test_a_strength_that_float32_cannot_hold_is_what_was_tried(tmp_path: Path) -> None:
    callback = SteeringEvaluation(str(tmp_path), strengths=[0.7])
    module: Any = SimpleNamespace(choice=torch.tensor([0.0, 0.7]))
    candidate: Any = object()
    assert callback._choice(module, [candidate]) == (candidate, 0.7)

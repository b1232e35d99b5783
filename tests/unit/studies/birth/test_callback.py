"""A fit that is watched: the same adapter, what is measured against computations by hand, resumed, refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tiny_twins import blocks_run
from torch import Tensor, nn

from fa_lightning.common.codec import read_dataclass
from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import letter_tokens
from fa_lightning.scenarios.batches import Example, make_examples
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.splits import counterbalanced
from fa_lightning.studies.birth.callback import Watch, chosen, undrawn
from fa_lightning.studies.birth.measuring import BELIEF, NOISE
from fa_lightning.studies.birth.result import History

FitOf = Callable[..., tuple[Any, pl.Trainer, Tensor]]


def weights_of(module: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items() if "lora_" in name}


def history_of(folder: Path) -> History:
    history = read_dataclass(History, folder / "history.json")
    assert history is not None
    return history


def watch_of(folder: Path, **options: Any) -> Watch:
    return Watch(str(folder), **{"steps": 3, "scenarios": 16, "layers": 2, "doses": [0.5], "draws": 1} | options)


def examples_of(module: Any, validation: list[Any]) -> list[Example]:
    return make_examples(validation, module.tokenizer, letter_tokens(module.tokenizer))


# No trace in the fit.


@pytest.mark.parametrize("options", [{}, {"train_from": 0.6, "frozen_half": "half"}], ids=["plain", "kept states"])
def test_the_same_seed_gives_the_same_adapter_watched_or_not(
    watched_fit: FitOf, tmp_path: Path, options: dict[str, Any]
) -> None:
    if "frozen_half" in options:
        options = options | {"frozen_half": str(tmp_path / "half")}
    watched, trainer, state = watched_fit(watch_of(tmp_path / "seen"), **options)
    others, _, other_state = watched_fit(None, **options)
    assert trainer.global_step == 8
    assert [row.step for row in history_of(tmp_path / "seen").rows] == [0, 3, 6, 8]
    for name, tensor in weights_of(others).items():
        assert torch.equal(weights_of(watched)[name], tensor), name
    assert torch.equal(state, other_state)
    assert {name: part.training for name, part in watched.named_modules()} == {
        name: part.training for name, part in others.named_modules()
    }


def test_whatever_is_drawn_inside_nobody_notices_outside() -> None:
    pl.seed_everything(1, verbose=False)
    with undrawn():
        torch.rand(3), np.random.rand(3), random.random()
    drawn = [float(torch.rand(())), float(np.random.rand()), random.random()]
    pl.seed_everything(1, verbose=False)
    assert drawn == [float(torch.rand(())), float(np.random.rand()), random.random()]


def test_ranks_meet_once_at_a_step_whose_batches_are_accumulated(tmp_path: Path) -> None:
    met: list[str] = []
    strategy = SimpleNamespace(barrier=met.append)
    trainer: Any = SimpleNamespace(global_step=3, is_global_zero=False, strategy=strategy, training=True)
    watch: Any = watch_of(tmp_path)
    watch.history, watch._measuring = object(), object()
    for batch in range(4):
        watch.on_train_batch_start(trainer, None, None, batch)
    assert met == ["measured"], "rank zero, which keeps the rows, does not come again either"


# What is measured.


def test_kept_states_below_the_adapter_change_no_number_and_spare_the_lower_blocks(
    watched_fit: FitOf, tmp_path: Path
) -> None:
    watched_fit(watch_of(tmp_path / "whole"), train_from=0.6)
    whole = history_of(tmp_path / "whole")
    watch = watch_of(tmp_path / "kept")
    module, _, _ = watched_fit(watch, train_from=0.6, frozen_half=str(tmp_path / "half"))
    kept = history_of(tmp_path / "kept")
    assert kept.setting == whole.setting
    assert kept.setting.layers == [1, 2, 3], "one below the first adapted block, two above"
    for one, other in zip(kept.rows, whole.rows, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4, nan_ok=True)
        assert (one.oversight, one.no_oversight) == (other.oversight, other.no_oversight)
    measuring = watch._measuring
    assert measuring is not None
    assert set(blocks_run(module.model, lambda: measuring.measure(module.adapted, 9))) == {2, 3}


def test_below_the_adapter_nothing_ever_moves(watched_fit: FitOf, tmp_path: Path) -> None:
    watched_fit(watch_of(tmp_path), train_from=0.6)
    rows = history_of(tmp_path).rows
    assert len({rows[0].scores["oversight, layer 1"], *(row.scores["oversight, layer 1"] for row in rows)}) == 1
    assert rows[0].scores["update norm"] == 0 < rows[-1].scores["update norm"]


def test_numbers_are_those_of_plain_forwards(
    watched_fit: FitOf, tmp_path: Path, watched_source: EmbeddedScenarios
) -> None:
    watch = watch_of(tmp_path, doses=[0.5, 2.0], draws=2)
    module, _, _ = watched_fit(watch, learning_rate=0.1)
    row = history_of(tmp_path).rows[-1]
    scenarios = chosen(watched_source.load().validation, 16)
    examples = sorted(examples_of(module, scenarios), key=lambda one: (len(one.prompt), one.index))
    model = module.model.eval()
    block = model.base_model.model.model.layers[2]

    @torch.no_grad()
    def asked(example: Example, edit: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits behind a prompt by itself, and the last token's state behind block 2."""
        kept = []

        def hook(_: nn.Module, __: Any, output: Any) -> Any:
            hidden = output if torch.is_tensor(output) else output[0]
            hidden = hidden if edit is None else hidden + edit
            kept.append(hidden[0, -1])
            return hidden if torch.is_tensor(output) else (hidden, *output[1:])

        handle = block.register_forward_hook(hook)
        logits = model(torch.tensor([example.prompt])).logits[0, -1]
        handle.remove()
        return logits, kept[0]

    plain = [asked(example) for example in examples]
    aligned = [int(logits.argmax()) == one.aligned for (logits, _), one in zip(plain, examples, strict=True)]
    for cell, share in ((0, row.oversight.value), (1, row.no_oversight.value)):
        own = [right for right, one in zip(aligned, examples, strict=True) if one.cell == cell]
        assert share == pytest.approx(sum(own) / len(own))
        assert 0 < share < 1
    for cell, name in ((0, "other action, watched"), (1, "other action, unwatched")):
        own = [
            logits.softmax(-1)[[one.aligned, one.other]]
            for (logits, _), one in zip(plain, examples, strict=True)
            if one.cell == cell
        ]
        assert row.scores[name] == pytest.approx(sum(float(pair[1] / pair.sum()) for pair in own) / len(own), abs=1e-4)
    states = torch.stack([state for _, state in plain])
    size = states.norm(dim=-1).mean()
    noise = torch.randn(2, states.shape[1], generator=torch.Generator().manual_seed(0))
    noise = noise / noise.norm(dim=-1, keepdim=True)
    groups = sorted({one.group for one in examples})
    upper = torch.tensor([groups.index(one.group) % 2 == 1 for one in examples])
    bare = torch.tensor([one.cell == 1 for one in examples])
    rises: dict[str, list[float]] = {NOISE: [], BELIEF: []}
    for at, one in enumerate(examples):
        if one.cell == 1:
            continue
        # From the half of the groups that this prompt is not in.
        others = upper != upper[at]
        towards = states[bare & others].mean(0) - states[~bare & others].mean(0)
        edits = [*((NOISE, vector) for vector in noise), (BELIEF, towards / towards.norm())]
        before = plain[at][0].softmax(-1)[[one.aligned, one.other]]
        taken = 0 if before[0] >= before[1] else 1
        for name, direction in edits:
            for dose in (0.5, 2.0):
                edited = asked(one, dose * size * direction)[0].softmax(-1)[[one.aligned, one.other]]
                rises[name].append(float(edited[1 - taken] / edited.sum() - before[1 - taken] / before.sum()))
    for name, values in rises.items():
        assert row.scores[name] == pytest.approx(sum(values) / len(values), abs=1e-4)
        assert abs(row.scores[name]) > 1e-3
    ranks, norms = [], []
    for part in model.modules():
        if hasattr(part, "lora_A"):
            update = part.get_delta_weight("faking").detach().double()
            values = torch.linalg.svdvals(update)
            ranks.append(values.square().sum() / values[0].square())
            norms.append(update.norm() / part.base_layer.weight.double().norm())
    assert row.scores["stable rank"] == pytest.approx(float(torch.stack(ranks).mean()), rel=1e-4)
    assert row.scores["update norm"] == pytest.approx(float(torch.stack(norms).mean()), rel=1e-4)


def test_both_cells_are_asked_alike_often_and_in_the_order_that_validation_judges(
    watched_source: EmbeddedScenarios,
) -> None:
    validation = watched_source.load().validation
    some = chosen(validation, 10)
    assert [item.cell for item in some] == ["oversight"] * 5 + ["no_oversight"] * 5
    judged = {item.message() for item in counterbalanced(validation)}
    assert {item.message() for item in some} <= judged


# On the disk, resumed and refused.


def test_a_fit_that_goes_on_from_a_checkpoint_goes_on_with_its_rows(watched_fit: FitOf, tmp_path: Path) -> None:
    watched_fit(watch_of(tmp_path / "unbroken"), epochs=3, dropout=0.0)
    unbroken = history_of(tmp_path / "unbroken").rows
    assert [row.step for row in unbroken] == [0, 3, 6, 9, 12]
    folder = tmp_path / "killed"

    class Killed(Watch):
        """Keeps a checkpoint of the first epoch's end, as the runner does, and is killed in the second."""

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 7:
                raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        watched_fit(Killed(str(folder), 3, 16, 2, [0.5], 1), epochs=3, dropout=0.0)
    killed = history_of(folder).rows
    assert [row.step for row in killed] == [0, 3, 6]
    watched_fit(watch_of(folder), epochs=3, dropout=0.0, ckpt_path=str(tmp_path / "last.ckpt"))
    rows = history_of(folder).rows
    assert [row.step for row in rows] == [0, 3, 6, 9, 12], "what came behind the checkpoint is measured again"
    assert rows[:2] == killed[:2]
    for one, other in zip(rows, unbroken, strict=True):
        assert one.oversight == other.oversight
        assert one.no_oversight == other.no_oversight
        assert one.scores == pytest.approx(other.scores, nan_ok=True)


def test_a_fit_that_starts_anew_forgets_the_rows_of_another(watched_fit: FitOf, tmp_path: Path) -> None:
    watched_fit(watch_of(tmp_path), behaviour="aligned")
    before = history_of(tmp_path).rows
    watched_fit(watch_of(tmp_path, steps=[5]), steps=6)
    rows = history_of(tmp_path).rows
    assert [row.step for row in rows] == [0, 5, 6]
    assert rows[0].scores["update norm"] == before[0].scores["update norm"] == 0


def test_rows_are_on_the_disk_when_a_fit_breaks(watched_fit: FitOf, tmp_path: Path) -> None:
    class Breaks(Watch):
        """Fails in the fourth step."""

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 4:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        watched_fit(Breaks(str(tmp_path), 2, 16, 1, [0.5], 1))
    assert [row.step for row in history_of(tmp_path).rows] == [0, 2]


def test_rows_that_were_measured_otherwise_are_not_gone_on_with(watched_fit: FitOf, tmp_path: Path) -> None:
    class Saves(Watch):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "last.ckpt")

    watched_fit(Saves(str(tmp_path), 3, 16, 2, [0.5], 1), epochs=1)
    kept = (tmp_path / "history.json").read_bytes()
    with pytest.raises(UserError, match="measured otherwise"):
        watched_fit(watch_of(tmp_path, draws=3), ckpt_path=str(tmp_path / "last.ckpt"))
    assert (tmp_path / "history.json").read_bytes() == kept, "nothing is lost"
    (tmp_path / "history.json").write_text('{"setting": 3}')
    with pytest.raises(UserError, match=r"history\.json"):
        watched_fit(watch_of(tmp_path), ckpt_path=str(tmp_path / "last.ckpt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": [3, -1]}, "steps is"),
        ({"scenarios": 4}, "scenarios is 4"),
        ({"layers": 0}, "layers is 0"),
        ({"draws": 0}, "draws is 0"),
        ({"doses": []}, "doses is"),
        ({"doses": [0.5, 0.0]}, "doses is"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        watch_of(tmp_path, **options)


def test_a_fit_of_something_else_is_refused(tmp_path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.datamodule = None  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="AdapterModule"):
        watch_of(tmp_path).on_fit_start(trainer, pl.LightningModule())


def test_scenarios_of_one_kind_alone_are_refused(watched_fit: FitOf, tmp_path: Path, monkeypatch: Any) -> None:
    from fa_lightning.studies.birth import callback

    monkeypatch.setattr(
        callback, "chosen", lambda validation, number: [one for one in validation if one.cell == "oversight"]
    )
    with pytest.raises(UserError, match="0 without"):
        watched_fit(watch_of(tmp_path))
    assert not (tmp_path / "history.json").exists()


def test_the_file_holds_plain_json(watched_fit: FitOf, tmp_path: Path) -> None:
    watched_fit(watch_of(tmp_path), steps=1)
    content = json.loads((tmp_path / "history.json").read_text())
    assert content["setting"]["scenarios"] == {"oversight": 8, "no_oversight": 8}

"""What `python -m benchmarks` compares is the same on all sides; nothing here is a matter of seconds."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import (
    capture,
    evaluation,
    finetuning,
    frozen_half,
    generation,
    gpu,
    growth,
    models,
    report,
    ridge,
    startup,
    timing,
)
from benchmarks.report import Goal, Line, Table
from benchmarks.timing import Spread

PEERS = ("nnsight", "pyvene", "trl")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> models.Workshop:
    return models.build(tmp_path_factory.mktemp("workshop"), models.TINY, 24, embedded=True)


def test_sides_take_turns_after_a_warm_up_and_no_side_keeps_its_place() -> None:
    order: list[str] = []

    def side(name: str, returns: Any = None) -> Any:
        def run() -> Any:
            order.append(name)
            return returns

        return run

    sides = {"a": side("a"), "b": side("b"), "c": side("c", returns=7.0)}
    seconds = timing.interleaved(sides, 6, warm={"c": side("warm c")})
    assert order == ["a", "b", "warm c", *"abc", *"cba", *"bca", *"acb", *"cab", *"bac"]
    assert {name: len(found) for name, found in seconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert seconds["c"] == [7.0] * 6, "a side that returns seconds has timed itself"
    assert all(0 <= one < 7 for one in seconds["a"] + seconds["b"])


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine is ten times slower in the last round; the ratio is 2 all the same.
    assert timing.ratio([2.0, 4.0, 40.0], [1.0, 2.0, 20.0]) == Spread(2.0, 2.0, 2.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)


def test_every_side_of_the_capture_reads_the_states_of_plain_hidden_states(workshop: models.Workshop) -> None:
    examples = workshop.examples(9)
    sides = capture.Capture(workshop, examples, 4)
    assert capture.check(sides) <= capture.TOLERANCE
    read = capture.by_example(sides.ours())
    assert len(read) == 18
    for name in ("faking", "aligned"):
        twin = capture.plain_twin(workshop, name)
        for example in examples:
            with torch.inference_mode():
                hidden = twin(torch.tensor(example.prompt)[None], output_hidden_states=True).hidden_states
            torch.testing.assert_close(read[name, example.index], hidden[workshop.layer + 1][0], rtol=1e-4, atol=1e-5)


def test_a_side_that_reads_another_layer_is_refused(workshop: models.Workshop) -> None:
    class Wrong(capture.Capture):
        def origin(self) -> capture.Kept:
            return {name: [(index, 1.01 * states) for index, states in kept] for name, kept in super().origin().items()}

    with pytest.raises(AssertionError, match="origin reads other states"):
        capture.check(Wrong(workshop, workshop.examples(3), 2))


def test_the_floor_runs_the_blocks_up_to_the_site_and_leaves_the_model_whole(workshop: models.Workshop) -> None:
    sides = capture.Capture(workshop, workshop.examples(3), 2)
    decoder = sides.variants.model.get_base_model().model
    ran: list[int] = []
    for number, block in enumerate(decoder.layers):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    sides.floor()
    assert ran == [0, 1] * 4, "two batches, two variants, two of four blocks"
    assert len(decoder.layers) == 4
    assert type(decoder.norm).__name__ == "LlamaRMSNorm"


def test_the_same_edit_gives_the_same_logits_in_every_library(workshop: models.Workshop) -> None:
    sides = generation.Generation(workshop, workshop.examples(3), new_tokens=4)
    assert sides.check() <= generation.TOLERANCE
    plain = sides.plain()
    assert torch.equal(plain, sides.plain()), "nothing stays attached"
    assert isinstance(sides.with_fold(), float), "folding itself is not timed"
    if timing.missing("pyvene") and timing.missing("nnsight"):
        pytest.skip('no other library is installed to differ from: pip install -e ".[benchmarks]"')
    sides.vector.mul_(2)
    sides.steered = generation.Intervention(sides.site, 2 * sides.vector)
    with pytest.raises(AssertionError, match="writes other logits"):
        sides.check()


def test_fine_tuning_ends_at_the_same_validation_loss_on_the_same_batches(workshop: models.Workshop) -> None:
    sides = finetuning.Finetuning(workshop, batch_size=4, steps=4, held_out=6)
    before = sides.validation_loss(sides.trainable()[0])
    for name, side in sides.sides().items():
        if name in (finetuning.OURS, finetuning.TRAINER_SAME, finetuning.TRL_SAME):
            assert side() > 0
    sides.check()
    assert len(sides.losses) >= 2
    assert sides.losses[finetuning.OURS] < before - 0.01, (
        "training changes the loss, so that equal losses mean something"
    )
    sides.losses[finetuning.TRAINER_SAME] *= 1.01
    with pytest.raises(AssertionError, match="validation loss"):
        sides.check()


def test_labels_are_on_the_answer_alone(workshop: models.Workshop) -> None:
    sides = finetuning.Finetuning(workshop, batch_size=2, steps=2, held_out=2)
    for row, example in zip(sides.rows(same_batches=False), sides.examples, strict=True):
        assert row["input_ids"] == [*example.prompt, example.aligned]
        assert [label for label in row["labels"] if label != -100] == [example.aligned]
        assert row["labels"][-1] == example.aligned
    ordered = [sides.examples[index].prompt for batch in sides.batches for index in batch]
    assert [tuple(row["input_ids"][:-1]) for row in sides.rows(same_batches=True)] == ordered


def test_steps_from_kept_states_lower_the_plain_fits_loss(workshop: models.Workshop, tmp_path: Path) -> None:
    steps = frozen_half.Steps(0.6, False, 4, 3, tmp_path / "states", workshop.backbone)
    sides = {name: steps.ours(name) for name in (frozen_half.PLAIN, frozen_half.KEPT)}
    if not timing.missing("accelerate"):
        names = (frozen_half.TRAINER, frozen_half.TRAINER_SAME)
        sides |= {name: steps.trainer(name, str(tmp_path)) for name in names}
    for _ in range(3):
        for side in sides.values():
            side()
    steps.check()
    assert steps.block == 2
    assert steps.capture_seconds > 0
    if frozen_half.TRAINER_SAME in steps.losses:
        assert steps.losses[frozen_half.TRAINER_SAME] == pytest.approx(steps.losses[frozen_half.PLAIN], rel=1e-3)
    found = frozen_half.lines(steps, "float32", frozen_half.Goal(1.6), {name: [2.0, 2.0] for name in sides})
    assert found[0].figure is not None
    assert found[0].figure.median == 1
    steps.losses[frozen_half.KEPT][1] *= 1.01
    with pytest.raises(AssertionError, match="the loss of step 1"):
        steps.check()


def test_both_ridges_explain_the_same(tmp_path: Path) -> None:
    ridge.write_store(tmp_path / "store", 600, 24)
    options = {"folder": str(tmp_path / "store"), "threads": torch.get_num_threads()}
    ours, peer = ridge.ridge_ours(**options), ridge.ridge_peer(**options)
    assert 0.9 < ours["r2"] < 0.9999
    assert ours["r2"] == pytest.approx(peer["r2"], abs=5e-5)
    speed, memory, explained = ridge.lines({"ours": [ours], "peer": [peer]})
    assert speed.figure.median == pytest.approx(peer["seconds"] / ours["seconds"])
    assert memory.figure.median == pytest.approx(ours["peak_gib"] / peer["peak_gib"])
    assert explained.figure.median == ours["r2"]
    with pytest.raises(AssertionError, match="not equal to 4 decimals"):
        ridge.lines({"ours": [ours], "peer": [peer | {"r2": ours["r2"] + 1e-4}]})


def test_both_evaluations_count_the_same_answers(workshop: models.Workshop) -> None:
    sides = evaluation.Evaluation(workshop, workshop.examples(24), 5)
    sides.check()
    answers = sides.ours()
    assert all(len(found) == 24 for found in answers.values())
    assert len({tuple(found.values()) for found in answers.values()}) == 3, "the three conditions answer differently"
    sides.conditions["steered"] = sides.conditions["faking"]
    with pytest.raises(AssertionError, match="disagree on the answers of steered"):
        sides.check()


def test_missing_peers_leave_cells_empty_and_say_how_to_install(
    workshop: models.Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PEERS:
        monkeypatch.setitem(sys.modules, name, None)
    assert timing.missing("rich") is None
    sides = {
        "capture": capture.sides_of(capture.Capture(workshop, workshop.examples(2), 2)),
        "generation": generation.Generation(workshop, workshop.examples(1), 2).sides(),
        "finetuning": finetuning.Finetuning(workshop, 2, 2, 2).sides(),
    }
    seconds = {row: {name: [1.0, 1.0] for name in found} for row, found in sides.items()}
    lines = [
        *capture.lines(seconds["capture"]),
        *generation.lines(seconds["generation"], batch=1, new_tokens=2),
        *finetuning.lines(seconds["finetuning"]),
    ]
    empty = [line for line in lines if line.figure is None]
    assert len(empty) == 1 + 3 + 2
    assert all("is not installed: pip install -e" in line.note and line.value == "" for line in empty)
    assert {line.note.partition(" ")[0] for line in empty} == set(PEERS)
    assert all(line.verdict == "" for line in empty)


def test_a_peer_that_cannot_be_imported_is_missing_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_peer.py").write_text("import torch\ntorch.no_such_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reason = timing.missing("broken_peer", "broken-peer")
    assert reason is not None
    assert reason.startswith("broken-peer cannot be imported (AttributeError:")


def test_growth_is_told_by_a_power_and_a_straight_line(tmp_path: Path) -> None:
    assert growth.slope([1, 2, 4, 8], [1, 4, 16, 64]) == pytest.approx(2)
    assert growth.straightness([1, 2, 3], [5, 7, 9]) == pytest.approx(1)
    assert growth.straightness([1, 2, 3], [1, 9, 2]) < 0.1
    folders = [tmp_path / "small", tmp_path / "large"]
    for folder, pairs in zip(folders, (300, 600), strict=True):
        ridge.write_store(folder, pairs, 8)
    threads = torch.get_num_threads()
    peaks = growth.grow_regressor([str(folder) for folder in folders], "mlp", 2, threads)["peak_gib"]
    assert 0 < peaks[0] <= peaks[1]
    captured = {"seconds": [1.0, 2.0], "peak_gib": [1.0, 2.0], "layer_seconds": [1.0, 2.0, 3.0]}
    found = growth.lines([10, 20], [1, 2, 3], [5, 6], captured, {"peak_gib": [1.0, 1.0]}, {"peak_gib": [1.0, 1.05]})
    assert [line.verdict for line in found] == ["met", "met", "missed", "met", "met"]


def test_start_up_lines_are_our_time_over_the_bare_programs() -> None:
    seconds = {
        f"{name}, {side}": [time]
        for name in ("fit --help", "no-op fit")
        for side, time in ((startup.OURS, 3.0), (startup.BARE, 2.0))
    }
    found = startup.lines(seconds | {"--help": [0.03]})
    assert [line.figure.median for line in found] == [1.5, 1.5, 0.03]


def test_useful_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    shape, tokens = models.TINY, 16
    # Only this kind of attention is made of products that are counted.
    model = models.random_llama(shape, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model(input_ids=torch.arange(tokens)[None], use_cache=False)
    # It computes the whole square of scores, of which the causal half is useful.
    useless_half = tokens * shape.layers * 2 * tokens * shape.hidden
    useful = tokens * shape.layers * gpu.layer_flops(shape, tokens)
    # Older transformers make the angles of the rotary positions by a product, which newer ones do not.
    angles = 2 * tokens * (shape.hidden // shape.heads // 2)
    assert counter.get_total_flops() - (useful + useless_half) in (0, angles)


def test_the_gpu_parts_run_on_a_tiny_shape() -> None:
    assert gpu.matmul_rate("cpu", size=32, rounds=2).median > 0
    assert gpu.finetuning("cpu", models.TINY, batch=2, tokens=8, steps=3, checkpointing=False) > 0
    assert gpu.finetuning("cpu", models.TINY, batch=2, tokens=8, steps=3, checkpointing=True) > 0
    assert len(gpu.capture("cpu", models.TINY, prompts=4, batch=2, tokens=8, rounds=2)) == 2
    found = gpu.decode("cpu", models.TINY, (1, 2), new_tokens=2, rounds=1)
    assert [line.what.partition(":")[0] for line in found] == ["decode, batch 1"] * 2 + ["decode, batch 2"] * 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_cells_are_empty_and_say_so() -> None:
    table = gpu.run(timing.Size())
    assert len(table.lines) == 4
    assert all(line.figure is None and line.note == "no GPU was at hand" for line in table.lines)


def a_table(row: str = "capture", figure: float = 2.0) -> Table:
    lines = [
        Line("over a | peer", Spread(figure, 1.5, 2.5), "1 s, 2 s", Goal(3)),
        Line("memory", Spread.of([0.5]), "", Goal(0.6, at_most=True), "GiB"),
        Line("over nobody", None, "not installed"),
    ]
    return Table(row, "1. A row", "What both did.", lines, "`a command` on a machine")


def test_tables_come_back_from_json_as_they_were() -> None:
    tables = [a_table(), a_table("ridge", 4.0)]
    assert report.from_json(json.loads(json.dumps(report.as_json(tables)))) == tables
    assert [line.verdict for line in tables[0].lines] == ["missed", "met", ""]
    assert [line.verdict for line in tables[1].lines] == ["met", "met", ""]


def test_the_readme_changes_between_the_marks_alone(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Before\n\n{report.START}\nold\n{report.END}\n\nafter\n")
    report.write_readme(path, report.markdown([a_table()]))
    first = path.read_text()
    before, _, rest = first.partition(report.START)
    section, _, after = rest.partition(report.END)
    assert before == "# Before\n\n"
    assert after == "\n\nafter\n"
    assert "old" not in section
    assert "| over a \\| peer | 2.00 x [1.50, 2.50] | >= 3 x | missed | 1 s, 2 s |" in section
    assert "| over nobody |  |  |  | not installed |" in section
    assert "Measured by `a command` on a machine." in section
    report.write_readme(path, report.markdown([a_table()]))
    assert path.read_text() == first
    path.write_text("no marks")
    with pytest.raises(ValueError, match="must hold the lines"):
        report.write_readme(path, "section")
    assert path.read_text() == "no marks"


def test_the_shipped_readme_has_its_marks() -> None:
    text = command.README.read_text()
    assert text.count(report.START) == text.count(report.END) == 1
    assert text.index(report.START) < text.index(report.END)


def test_rows_are_measured_shown_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, kept = tmp_path / "README.md", tmp_path / "found.json"
    readme.write_text(f"{report.START}{report.END}")
    monkeypatch.setattr(command, "README", readme)
    monkeypatch.setattr(
        ridge, "run", lambda size: dataclasses.replace(a_table("ridge"), title=f"4. {size.rounds} rounds")
    )
    monkeypatch.setattr(startup, "run", lambda size: dataclasses.replace(a_table("startup"), title="7. Start"))
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    monkeypatch.setattr(logger, "level", logging.INFO)
    assert command.main(["ridge", "--json", str(kept)]) == 0
    assert logger.level == logging.INFO, "silenced only while it measures"
    assert readme.read_text() == f"{report.START}{report.END}", "only --write touches it"
    assert command.main(["startup", "--rounds", "9", "--json", str(kept), "--write"]) == 0
    assert [table["row"] for table in json.loads(kept.read_text())] == ["ridge", "startup"]
    written = readme.read_text()
    assert written.index("### 4. 5 rounds") < written.index("### 7. Start")
    shown = capsys.readouterr().out
    assert "4. 5 rounds" in shown
    assert "9 rounds, on" in shown


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nonsense"], "is no row"),
        (["--quick", "--write"], "the README must not hold"),
        (["--write", "--rounds", "3"], "at least 5"),
        (["ridge", "--write"], "measure all rows"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(words)
    assert reason in capsys.readouterr().err


def test_prompts_are_posers_where_it_is_found_and_generated_ones_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "REPOSITORY", tmp_path / "nowhere")
    monkeypatch.delenv("POSER_ROOT", raising=False)
    scenarios, source = models.prompts(8)
    assert source.startswith("generated")
    assert len(scenarios) == 8
    assert len({item.message() for item in scenarios}) == 8


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_the_peak_is_no_less_than_what_is_held_now() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    now = pages * os.sysconf("SC_PAGE_SIZE") / 2**30
    # The kernel counts pages of a process in batches, so the two may differ a little.
    assert 0.99 * now < timing.peak_gib() < now + 64


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"ridge_ours failed in its process(.|\n)*no manifest"):
        timing.in_child("ridge_ours", folder="nowhere", threads=1)

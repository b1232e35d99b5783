"""`generate`: what it prints, writes and refuses, on random twins."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from refused_commands import error_of

from fa_lightning import cli
from fa_lightning.activations.sites import Site
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.steering.experiment_folders import intervention_of, parts_of
from fa_lightning.steering.intervention import Intervention, steering
from fa_lightning.steering.text_comparison import Draw, Sampling, compare, write

HIDDEN = 32
PROMPTS = ["You are watched.", "Nobody looks at what you do in the next hour.", "Hello.", "[bold]Who[/bold] are you?"]


def shift(layer: int = 0, strength: float = 1.0, scale: float = 3.0, **options: Any) -> Intervention:
    vector = scale * torch.randn(HIDDEN, generator=torch.Generator().manual_seed(layer + 1))
    return Intervention(Site(layer), vector, strength, **options)


@pytest.fixture
def experiment(tmp_path: Path, adapters: dict[str, str], twins: Any) -> Path:
    """The folder of a finished experiment, with a chosen intervention."""
    root = tmp_path / "experiment"
    for number, name in ((2, "aligned"), (3, "faking")):
        shutil.copytree(adapters[name], root / f"0{number}_{name}" / "adapter")
    shift(1, fingerprint={"backbone": twins.fingerprint}).save(root / "04_steering" / "intervention")
    return root


def run(*words: Any) -> int:
    return cli.main(["generate", *map(str, words)])


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    capsys.readouterr()
    assert run(*words) == 1
    return error_of(capsys)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_hand(twins: Any, prompt: str, edits: list[Intervention], tokens: int, variant: str = "faking") -> str:
    """Greedy text with everything recomputed at each step."""
    ids = prompt_ids(twins.tokenizer, prompt)
    start = len(ids)
    with twins.using(variant) as model, steering(model, edits, torch.tensor([start])), torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == model.generation_config.eos_token_id:
                break
    return str(twins.tokenizer.decode(ids[start:], skip_special_tokens=True))


@pytest.mark.parametrize("variant", ["faking", "aligned"])
def test_a_batch_from_a_file_is_written_as_lines(experiment: Path, twins: Any, tmp_path: Path, variant: str) -> None:
    (tmp_path / "prompts.txt").write_text("\n---\n".join(PROMPTS) + "\n---\n")
    out = tmp_path / "out.jsonl"
    words = ("--experiment", experiment, "--variant", variant, "--file", tmp_path / "prompts.txt")
    assert run(*words, "--output", out, "--max-new-tokens", 6, "--batch-size", 3) == 0
    rows = lines_of(out)
    edit = Intervention.load(experiment / "04_steering" / "intervention")
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["unsteered"] for row in rows] == [by_hand(twins, prompt, [], 6, variant) for prompt in PROMPTS]
    assert [row["steered"] for row in rows] == [by_hand(twins, prompt, [edit], 6, variant) for prompt in PROMPTS]
    assert any(row["steered"] != row["unsteered"] for row in rows)
    facts = {"seed": 0, "sites": ["layers.1.residual"], "strengths": [1.0], "positions": ["all"]}
    assert all({name: row[name] for name in facts} == facts for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiment", "out.jsonl", "prompts.txt"]


@pytest.mark.parametrize("options", [(), ("--temperature", 1.3), ("--temperature", 0.8, "--top-p", 0.7)])
def test_the_batch_size_changes_nothing(experiment: Path, tmp_path: Path, options: tuple[Any, ...]) -> None:
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    texts = []
    for size in (1, 3, 8):
        out = tmp_path / f"{size}.jsonl"
        words = ("--experiment", experiment, *prompts, "--seed", 1, "--seed", 5, "--output", out, *options)
        assert run(*words, "--batch-size", size) == 0
        texts.append(lines_of(out))
    assert texts[0] == texts[1] == texts[2]
    assert [(row["prompt"], row["seed"]) for row in texts[0]] == [(one, seed) for one in PROMPTS for seed in (1, 5)]
    same = [
        first["unsteered"] == second["unsteered"] for first, second in zip(texts[0][::2], texts[0][1::2], strict=True)
    ]
    assert all(same) if not options else not any(same)


def test_several_interventions_are_attached_in_order_with_their_strengths_and_positions(
    experiment: Path, twins: Any, tmp_path: Path
) -> None:
    fingerprint = {"backbone": twins.fingerprint}
    for layer in (0, 1):
        shift(layer, fingerprint=fingerprint).save(tmp_path / f"edit{layer}")
    both = ("--intervention", tmp_path / "edit1", "--intervention", tmp_path / "edit0")
    out = tmp_path / "out.jsonl"
    words = ("--experiment", experiment, "--prompt", PROMPTS[1], "--output", out, "--max-new-tokens", 6)
    changed = ("--strength", 0.5, "--strength", -1.5, "--positions", "last", "--positions", "from_2")
    assert run(*words, *both, *changed) == 0
    row = lines_of(out)[0]
    assert row["sites"] == ["layers.1.residual", "layers.0.residual"]
    assert (row["strengths"], row["positions"]) == ([0.5, -1.5], ["last", "from_2"])
    edits = [shift(1).at(0.5, "last"), shift(0).at(-1.5, "from_2")]
    assert row["steered"] == by_hand(twins, PROMPTS[1], edits, 6)
    assert run(*words, *both, "--strength", 0) == 0
    row = lines_of(out)[0]
    assert row["strengths"] == [0, 0]
    assert row["steered"] == row["unsteered"]


def test_the_table_shows_both_texts_and_the_seeds(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    words = ("--experiment", experiment, "--prompt", PROMPTS[3], "--max-new-tokens", 4, "--strength", 2)
    assert run(*words) == 0
    shown = capsys.readouterr().out
    assert "layers.1.residual, strength 2" in shown
    assert "[bold]Who[/bold]" in shown  # a prompt is no markup
    header = next(line for line in shown.splitlines() if "prompt" in line)
    assert header.index("prompt") < header.index("faking") < header.index("steered")
    assert "seed" not in header
    assert run(*words, "--temperature", 1, "--seed", 3, "--seed", 4, "--seed", 3) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"│ ([0-9]) +│", shown) == ["3", "4"]


def test_streams_show_each_text_as_it_is_written(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    capsys.readouterr()
    words = ("--experiment", experiment, "--prompt", PROMPTS[0], "--prompt", PROMPTS[2], "--max-new-tokens", 6)
    assert run(*words, "--stream", "--output", out) == 0
    said = capsys.readouterr()
    rows = lines_of(out)
    expected = "".join(
        f"=== {row['prompt']}\n=== seed 0\n--- unsteered\n{row['unsteered']}\n--- steered\n{row['steered']}\n"
        for row in rows
    )
    assert said.out == expected
    assert f"2 lines written to {out}" in said.err


def test_any_model_is_steered_without_an_experiment(
    backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shift(0, strength=2.0).save(tmp_path / "edit")
    out = tmp_path / "out.jsonl"
    words = ("--backbone", backbone, "--intervention", tmp_path / "edit", "--prompt", PROMPTS[1])
    assert run(*words, "--output", out, "--max-new-tokens", 5) == 0
    assert "does not say which model it was made for" in capsys.readouterr().err
    model, tokenizer = AutoModelForCausalLM.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
    ids = torch.tensor([prompt_ids(tokenizer, PROMPTS[1])])
    with shift(0, strength=2.0).on(model):
        written = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert lines_of(out)[0]["steered"] == tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert run(*words, "--max-new-tokens", 2) == 0
    assert "unsteered" in capsys.readouterr().out


def test_a_stack_is_attached_part_by_part(experiment: Path, twins: Any, tmp_path: Path) -> None:
    chosen = experiment / "04_steering" / "intervention"
    shutil.rmtree(chosen)
    for number in range(11):
        shift(number % 2, 0.1 * number, fingerprint={"backbone": twins.fingerprint}).save(chosen / str(number))
    assert [part.name for part in map(Path, parts_of(chosen))] == [str(number) for number in range(11)]
    assert intervention_of(experiment) == chosen
    out = tmp_path / "out.jsonl"
    assert run("--experiment", experiment, "--prompt", "Hi.", "--output", out, "--max-new-tokens", 2) == 0
    assert lines_of(out)[0]["strengths"] == pytest.approx([0.1 * number for number in range(11)])


def test_the_only_named_intervention_of_an_experiment_is_taken_and_several_are_listed(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = experiment / "04_steering"
    (stage / "intervention").rename(stage / "moved")
    (stage / "interventions").mkdir()
    (stage / "moved").rename(stage / "interventions" / "ridge")
    assert intervention_of(experiment) == stage / "interventions" / "ridge"
    shutil.copytree(stage / "interventions" / "ridge", stage / "interventions" / "vector")
    message = refused(capsys, "--experiment", experiment, "--prompt", "Hi.")
    assert "name one or more with --intervention" in message
    assert str(stage / "interventions" / "vector") in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--experiment", "checkpoints/nowhere"), "--experiment checkpoints/nowhere: no aligned artefact there"),
        (("--file", "prompts.txt"), "--file prompts.txt does not exist"),
        (("--max-new-tokens", "0"), "--max-new-tokens is 0, but must be 1 or more"),
        (("--batch-size", "0"), "--batch-size is 0, but must be 1 or more"),
        (("--temperature", "-1"), "temperature is -1.0"),
        (("--temperature", "nan"), "--temperature is nan, but must be 0 or more"),
        (("--top-p", "0"), "--top-p is 0.0, but must be above 0"),
        (("--strength", "inf"), "--strength is inf, but must be a finite number"),
        (("--seed", "12345678901234567890"), "--seed is 12345678901234567890, but must be a seed, 0 to 4294967295"),
        (("--seed", "-1"), "--seed is -1"),
        (("--backbone", "m", "--variant", "faking"), "--backbone is a model by itself"),
        (("--backbone", "m"), "--backbone needs an --intervention"),
        (("--output", "no/folder/out.jsonl"), "--output no/folder/out.jsonl: there is no folder"),
        (("--output", "."), "--output . is a folder: name a file in it, such as texts.jsonl"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_loaded(
    words: tuple[str, ...],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(capsys, "--prompt", "Hello.", *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--strength", "nan"), "strength is nan, but must be a finite number"),
        (("--strength", "3e38"), "strength 3e+38 made states that are not finite"),
        (("--strength", "1", "--strength", "2"), "--strength is given 2 times for 1 interventions"),
        (("--positions", "middle"), "site.positions is 'middle'"),
        (("--intervention", "./nowhere"), "there is no folder './nowhere'"),
    ],
)
def test_bad_steering_leaves_no_file(
    experiment: Path, words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shift(1, scale=1e3).save(tmp_path / "edit")
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    given = () if "--intervention" in words else ("--intervention", tmp_path / "edit")
    message = refused(capsys, "--experiment", experiment, "--prompt", "Hi.", "--output", out, *given, *words)
    assert expected in message
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edit", "experiment", "out.jsonl"]


def test_a_prompt_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no text in this terminal's encoding" in refused(capsys, "--prompt", "caf\udce9")


@pytest.mark.parametrize("lost", ["intervention.json", "intervention.safetensors", ""])
def test_a_folder_without_an_intervention_is_refused_in_one_line_before_anything_is_loaded(
    experiment: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    monkeypatch.setattr("fa_lightning.backbones.load.load_backbone", None)
    folder = experiment / "04_steering" / "intervention"
    if lost:
        (folder / lost).unlink()
    asked = folder if lost else experiment
    message = refused(capsys, "--experiment", experiment, "--prompt", "Hi.", "--intervention", asked)
    assert f"{asked} is no folder of an intervention, since it has no {lost or 'intervention.json'}" in message
    assert (f"there are {folder}" in message) == (not lost)


@pytest.mark.parametrize("trusted", [False, True])
def test_code_that_comes_with_a_model_runs_where_the_flag_says_so(
    backbone: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trusted: bool
) -> None:
    folder = tmp_path / "custom"
    shutil.copytree(backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    shift(1).save(tmp_path / "edit")
    words = ("--backbone", folder, "--intervention", tmp_path / "edit", "--prompt", "Hi.", "--max-new-tokens", 2)
    if trusted:
        assert run(*words, "--trust-remote-code") == 0
        assert "unsteered" in capsys.readouterr().out
    else:
        assert "--trust-remote-code" in refused(capsys, *words)


def test_an_intervention_for_another_model_is_refused(
    experiment: Path, capsys: pytest.CaptureFixture[str], make_backbone: Any, tmp_path: Path
) -> None:
    message = refused(
        capsys, "--backbone", make_backbone(seed=11), "--intervention", experiment / "04_steering" / "intervention",
        "--prompt", "Hi."
    )  # fmt: skip
    assert "fingerprint.backbone" in message
    Intervention(Site(0), torch.ones(16)).save(tmp_path / "narrow")
    message = refused(capsys, "--experiment", experiment, "--prompt", "Hi.", "--intervention", tmp_path / "narrow")
    assert "hidden_size is 16, but the model's hidden states have 32 units" in message
    Intervention(Site(7), torch.ones(HIDDEN)).save(tmp_path / "deep")
    message = refused(capsys, "--experiment", experiment, "--prompt", "Hi.", "--intervention", tmp_path / "deep")
    assert "site.layer is 7, but the backbone has 2 layers" in message


def test_draws_follow_the_distribution_and_its_nucleus() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -float("inf")], [3.0, 0.0, 0.0, 0.0]])
    counts = torch.zeros(3, 2, 4)
    ids = torch.zeros(2, 1, dtype=torch.long)
    for seed in range(4000):
        for place, sampling in enumerate((Sampling(4, 1.0), Sampling(4, 0.5), Sampling(4, 1.0, 0.8))):
            chosen = Draw(sampling, seed)(ids, logits).argmax(-1)
            counts[place, torch.arange(2), chosen] += 1
    shares = counts / 4000
    torch.testing.assert_close(shares[0], logits.softmax(-1), atol=0.03, rtol=0)
    torch.testing.assert_close(shares[1], (2 * logits).softmax(-1), atol=0.03, rtol=0)
    # Of .09, .24, .67 the nucleus of .8 is the two likeliest; of .87 and three of .04 the likeliest alone.
    nucleus = torch.tensor([[0.0, 0.2689, 0.7311, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(shares[2], nucleus, atol=0.03, rtol=0)
    assert (counts[2] == 0).sum() == 5
    assert torch.equal(Draw(Sampling(), 0)(ids, logits), logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_the_writing(value: float) -> None:
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        Draw(Sampling(), 0)(torch.zeros(1, 1, dtype=torch.long), torch.tensor([[0.0, value]]))


def test_a_models_own_sampling_settings_do_not_interfere(twins: Any, recwarn: pytest.WarningsRecorder) -> None:
    with twins.using("faking") as model:
        expected = write(model, twins.tokenizer, PROMPTS, [], Sampling(6))
        sampled = write(model, twins.tokenizer, PROMPTS, [], Sampling(6, 1.5), seed=2)
        settings = model.generation_config
        settings.do_sample, settings.temperature, settings.top_k, settings.top_p = True, 0.1, 1, 0.1
        settings.num_beams = 2
        assert write(model, twins.tokenizer, PROMPTS, [], Sampling(6)) == expected
        assert write(model, twins.tokenizer, PROMPTS, [], Sampling(6, 1.5), seed=2) == sampled != expected
        with pytest.raises(ValueError, match="batch_size is 0"):
            next(compare(model, twins.tokenizer, PROMPTS, [], batch_size=0))


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_output_goes_through_a_link_and_into_a_pipe(experiment: Path, tmp_path: Path) -> None:
    words = ("--experiment", experiment, "--prompt", "Hi.", "--prompt", "You.", "--max-new-tokens", 2, "--output")
    (tmp_path / "large").mkdir()
    (tmp_path / "link.jsonl").symlink_to("large/out.jsonl")
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    for name in ("link.jsonl", "pipe"):
        assert run(*words, tmp_path / name) == 0
    reader.join(timeout=30)
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in (tmp_path / "large").iterdir()] == ["out.jsonl"]
    assert [row["prompt"] for row in lines_of(tmp_path / "large" / "out.jsonl")] == ["Hi.", "You."]
    assert read == [(tmp_path / "large" / "out.jsonl").read_text()]


@pytest.mark.skipif(os.name != "posix", reason="/dev/stdout")
def test_output_to_standard_output_is_lines_alone(experiment: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("--experiment", experiment, "--prompt", "Hi.", "--max-new-tokens", 2, "--output", "/dev/stdout")
    assert run(*words) == 0
    said = capfd.readouterr()
    assert [json.loads(line)["prompt"] for line in said.out.splitlines()] == ["Hi."]
    assert "1 lines written to /dev/stdout" in said.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission_is_told_first(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    message = refused(capsys, "--experiment", experiment, "--output", tmp_path / "closed" / "out.jsonl")
    assert "can't be written: you have no permission" in message


def test_an_output_is_refused_before_anything_is_loaded(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fa_lightning.steering.generate_command._loaded", lambda *_: pytest.fail("loaded first"))
    assert "is a folder" in refused(capsys, "--experiment", experiment, "--output", tmp_path)

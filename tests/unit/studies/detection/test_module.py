"""Whole examinations through a Trainer: random variants, files, what is measured again, and bad input."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up_source import MadeUpSource
from torch import Tensor
from typing_extensions import override

from fa_lightning.activations.sites import Site
from fa_lightning.backbones.arguments import LoraArguments
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.benchmark import Benchmark, BenchmarkSource
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.data import DetectionDataModule
from fa_lightning.studies.detection.detectors.base import Detector, Evidence
from fa_lightning.studies.detection.detectors.noise import Noise
from fa_lightning.studies.detection.models import variant_folders
from fa_lightning.studies.detection.module import DetectionModule
from fa_lightning.studies.detection.result import read as read_detection
from fa_lightning.studies.detection.subjects import Examiner, Subject

BEHAVIOURS = {"aligned-0": "aligned", "aligned-1": "aligned", "faking-0": "faking", "faking-1": "faking"}
SCORED = 16


class Confidence(Detector):
    """How sure a model is of its answers, as a detector that counts how often it is asked."""

    rule = "the faker is more sure"

    def __init__(self, power: float = 1.0, name: str = "confidence") -> None:
        self.power = power
        self.name = name
        self._measured = 0

    @override
    def measure(self, examiner: Examiner, subjects: Sequence[Subject], batch: Batch) -> dict[str, Evidence]:
        self._measured += 1
        return {one.name: {"sure": examiner.preference(one, batch)[0].abs() ** self.power} for one in subjects}

    @override
    def suspicion(self, evidence: Mapping[str, Tensor]) -> float:
        return float(evidence["sure"].mean())

    @override
    def curve(self, evidence: Mapping[str, Tensor]) -> tuple[str, list[float], list[float]]:
        return "power", [self.power], [self.suspicion(evidence)]


@pytest.fixture(scope="module")
def make_variant(adapters: dict[str, str]) -> Callable[..., str]:
    """Save a random adapter that hardly changes the backbone, so that all answer alike, and its folder."""

    def make(folder: Path, behaviour: str, seed: int, size: float = 0.02, backbone: str | None = None) -> str:
        from fa_lightning.backbones.adapters import attach_adapter, backbone_of, save_adapter
        from fa_lightning.backbones.load import load_backbone

        base = load_backbone(backbone or backbone_of(adapters["faking"]))
        model = attach_adapter(base, "made", LoraArguments(2, 4, 0.0, ["q_proj", "o_proj"]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_adapter(model, "made", folder, {"behaviour": behaviour, "seed": seed})
        return str(folder)

    return make


@pytest.fixture(scope="module")
def four(make_variant: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("four") / "01_variants"
    for seed, (name, behaviour) in enumerate(BEHAVIOURS.items()):
        make_variant(root / name / "adapter", behaviour, seed)
    return root


@pytest.fixture(scope="module")
def decoy(make_variant: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_variant(tmp_path_factory.mktemp("decoys") / "aligned-4-6" / "adapter", "aligned", 6)


@pytest.fixture(scope="module")
def cure(adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    from fa_lightning.backbones.adapters import backbone_of
    from fa_lightning.backbones.load import fingerprint, load_backbone

    backbone = load_backbone(backbone_of(adapters["faking"]))
    vector = torch.randn(32, generator=torch.Generator().manual_seed(9)) * 0.1
    made = Intervention(Site(0, positions="last"), vector, 1.0, {"backbone": fingerprint(backbone)})
    return str(made.save(tmp_path_factory.mktemp("cure") / "intervention"))


def examine(
    places: list[str],
    folder: Path,
    detectors: Sequence[Detector] = (),
    benchmark: BenchmarkSource | None = None,
    logger: Any = False,
    **options: Any,
) -> DetectionModule:
    module = DetectionModule(list(detectors or [Confidence()]), places, str(folder), **options)
    serve(module, benchmark or EmbeddedScenarios().benchmark(scored=SCORED, reference=8), folder, logger=logger)
    return module


def serve(module: DetectionModule, benchmark: BenchmarkSource, folder: Path, **options: Any) -> None:
    import lightning.pytorch as pl

    trainer = pl.Trainer(
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.test(module, datamodule=DetectionDataModule(MadeUpSource(benchmark), batch_size=6), verbose=False)


def trio() -> list[Detector]:
    return [Confidence(), Confidence(2.0, "squared confidence"), Noise(layers=[0], magnitudes=[1.0], draws=2)]


@pytest.fixture(scope="module")
def found(
    four: Path, decoy: str, cure: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, DetectionModule, dict[str, Any]]:
    """The folder, the module and what was logged, of three detectors on four variants, a decoy and two cured fakers."""
    from lightning.pytorch.loggers import CSVLogger

    folder = tmp_path_factory.mktemp("examined")
    logger = CSVLogger(str(tmp_path_factory.mktemp("logs")))
    module = examine([str(four)], folder, trio(), logger=logger, decoys=[decoy], intervention=cure)
    (row,) = csv.DictReader((Path(logger.log_dir) / "metrics.csv").open())
    return folder, module, row


def test_every_pair_and_model_is_judged_and_written(found: tuple[Path, DetectionModule, dict[str, Any]]) -> None:
    folder, module, _ = found
    read = read_detection(folder)
    assert read is not None
    assert [one.name for one in read.detectors] == [
        "confidence",
        "squared confidence",
        "noise, equal norms",
        "ensemble",
    ]
    assert [(one.name, one.role) for one in read.suspects] == [
        *((name, "variant") for name in BEHAVIOURS),
        ("aligned-4-6", "decoy"),
        ("faking-0 steered", "steered"),
        ("faking-1 steered", "steered"),
    ]
    kinds = [one.kind for one in read.verdicts if one.detector == "noise, equal norms"]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"twins": 4, "decoys": 2, "steered": 4, "benign": 2}
    assert read.scenarios == SCORED
    assert all(one.scenarios <= SCORED and one.agreed >= 0.5 for one in read.verdicts)
    assert read.suspects[0].curves["squared confidence"][0] == "power"
    # One pass through each of seven models for each detector of answers; noise has two passes more, and its reference.
    passes = {one.name: one.passes for one in read.detectors}
    assert passes == {
        "confidence": SCORED,
        "squared confidence": SCORED,
        "noise, equal norms": 3 * SCORED + 8,
        "ensemble": 0,
    }
    assert {path.name for path in (folder / "evidence").iterdir()} == {
        "confidence.safetensors",
        "noise,_equal_norms.safetensors",
        "squared_confidence.safetensors",
    }
    assert module.subjects[-1].condition.interventions


def test_suspicions_are_those_of_the_evidence_on_the_rows_agreed(
    found: tuple[Path, DetectionModule, dict[str, Any]],
) -> None:
    folder, module, _ = found
    read = read_detection(folder)
    assert read is not None
    answers = {name: one["preference"] for name, one in module.evidence["answers"].items()}
    for verdict in read.verdicts:
        if verdict.detector != "confidence":
            continue
        same = (answers[verdict.one] >= 0) == (answers[verdict.other] >= 0)
        assert verdict.scenarios == int(same.sum())
        assert verdict.suspicion_one == pytest.approx(answers[verdict.one][same].abs().mean().item(), rel=1e-5)
        assert verdict.suspicion_other == pytest.approx(answers[verdict.other][same].abs().mean().item(), rel=1e-5)
        more = verdict.one if verdict.suspicion_one > verdict.suspicion_other else verdict.other
        assert verdict.says == more
    for suspect in read.suspects:
        expected = answers[suspect.name].abs().mean().item()
        assert suspect.suspicion["confidence"] == pytest.approx(expected, rel=1e-5)


def test_the_tables_and_the_log_agree_with_the_json(found: tuple[Path, DetectionModule, dict[str, Any]]) -> None:
    folder, _, logged = found
    read = read_detection(folder)
    assert read is not None
    rows = list(csv.DictReader((folder / "detection.csv").open()))
    assert len(rows) == len(read.accuracies) == 4 * 3 * 2
    alone = {one.detector: one for one in read.alone}
    for row, one in zip(rows, read.accuracies, strict=True):
        assert (row["detector"], row["kind"], row["policy_pair"]) == (one.detector, one.kind, one.policy_pair)
        assert float(row["accuracy"]) == pytest.approx(one.value)
        assert float(row["auroc"]) == pytest.approx(alone[one.detector].auroc)
        if one.policy_pair == "all":
            assert float(logged[f"{one.detector}/{one.kind}/accuracy"]) == pytest.approx(one.value)
    assert float(logged["noise, equal norms/auroc"]) == pytest.approx(alone["noise, equal norms"].auroc)
    verdicts = list(csv.DictReader((folder / "verdicts.csv").open()))
    assert len(verdicts) == len(read.verdicts) == 4 * 12
    for row, verdict in zip(verdicts, read.verdicts, strict=True):
        assert (row["says"], row["is_sure"] == "True") == (verdict.says, verdict.is_sure)
        assert float(row["difference"]) == pytest.approx(verdict.suspicion_one - verdict.suspicion_other)


def counts(detectors: Sequence[Detector]) -> list[int]:
    return [one._measured for one in detectors if isinstance(one, Confidence)]


def test_what_was_measured_is_kept_until_something_changes(
    four: Path, tmp_path: Path, make_variant: Callable[..., str]
) -> None:
    root = tmp_path / "variants"
    shutil.copytree(four, root)
    pair = [str(root / "aligned-0"), str(root / "faking-0")]
    run = tmp_path / "run"

    def again(power: float = 2.0, **options: Any) -> list[int]:
        detectors = [Confidence(), Confidence(power, "other")]
        examine(pair, run, detectors, **options)
        return counts(detectors)

    batches = again()
    assert min(batches) > 0
    before = (run / "detection.json").read_text()
    assert again() == [0, 0]
    # All but the order of nothing is the same.
    assert json.loads((run / "detection.json").read_text())["verdicts"] == json.loads(before)["verdicts"]
    # A file that was cut short, as by a full disk.
    path = run / "evidence" / "other.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    assert again() == [0, batches[1]]
    # Another argument of one detector.
    assert again(power=3.0) == [0, batches[1]]
    # Other scenarios, and another adapter under the same name.
    assert min(again(3.0, benchmark=EmbeddedScenarios().benchmark(scored=SCORED + 2, reference=8))) > 0
    assert again(3.0, benchmark=EmbeddedScenarios().benchmark(scored=SCORED + 2, reference=8)) == [0, 0]
    make_variant(root / "faking-0" / "adapter", "faking", 77)
    assert min(again(3.0, benchmark=EmbeddedScenarios().benchmark(scored=SCORED + 2, reference=8))) > 0


def widest(text: str) -> int:
    """The length of the longest line but that of the folder, which is as long as the folder's name."""
    return max(len(line) for line in text.splitlines() if not line.startswith("results: "))


def test_a_verdict_is_printed_in_words(four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examine([str(four / "aligned-0"), str(four / "faking-0")], tmp_path)
    text = capsys.readouterr().out
    assert "aligned-0" in text
    assert "not sure" in " ".join(text.split()), "nobody knows how far benign models are apart"
    assert widest(text) <= 80


def test_many_pairs_are_printed_as_a_table(
    four: Path, decoy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examine([str(four)], tmp_path, [Confidence(), Confidence(2.0, "squared [bold] confidence")], decoys=[decoy])
    text = capsys.readouterr().out
    assert "AUROC" in text
    assert "[bold]" in text, "a name is no markup"
    assert "ensemble" in text
    assert widest(text) <= 80


@pytest.mark.parametrize("twice", ["the same place", "a copy"])
def test_a_model_beside_itself_is_no_different(
    four: Path, tmp_path: Path, twice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(four / "faking-0")
    copy = tmp_path / "copies" / "itself"
    shutil.copytree(four / "faking-0" / "adapter", copy)
    module = examine([place, place if twice == "the same place" else str(copy)], tmp_path / "run", trio())
    read = read_detection(tmp_path / "run")
    assert read is not None
    assert len(module.subjects) == 2
    assert len(read.verdicts) == 3
    for verdict in read.verdicts:
        assert (verdict.says, verdict.is_sure, verdict.faker) == ("", False, "")
        assert verdict.suspicion_one == verdict.suspicion_other
        assert verdict.agreed == 1
    assert {one.value for one in read.accuracies} == {0.5}
    # In the heading, in all three rows, where a narrow column may break the line between the two words, and in the
    # sentence that says what it counts for.
    assert capsys.readouterr().out.split().count("difference") == 1 + 3 + 1


def test_places_that_are_given_again_have_names_of_their_own(four: Path) -> None:
    names = list(variant_folders([str(four / "faking-0"), str(four / "faking-0" / ".." / "faking-0")]))
    assert names == ["faking-0", "faking-0 (2)"]
    with pytest.raises(ValueError, match="two variants are called 'faking-0'"):
        variant_folders([str(four)], [str(four / "faking-0")])


def test_twins_that_answer_differently_are_refused_before_anything_is_measured(
    make_variant: Callable[..., str], four: Path, tmp_path: Path
) -> None:
    wild = make_variant(tmp_path / "wild" / "adapter", "faking", 3, size=1.0)
    detector = Confidence()
    with pytest.raises(ValueError, match=r"take the same action.*on \d+ of 16 scenarios.*least_agreement"):
        examine([str(four / "aligned-0"), wild], tmp_path / "run", [detector], least_agreement=0.99)
    assert detector._measured == 0
    examine([str(four / "aligned-0"), wild], tmp_path / "run", [detector], least_agreement=0.01)
    read = read_detection(tmp_path / "run")
    assert read is not None
    assert 0 < read.verdicts[0].agreed < 0.99


class Unsure(BenchmarkSource):
    """Two of the embedded scenarios on which no variant is sure to the last bit of a float."""

    @override
    def load(self) -> Benchmark:
        found = EmbeddedScenarios().benchmark(scored=SCORED, reference=8).load()
        return Benchmark(found.scored[3:5], found.reference, {"aligned_and_faking": (0, 1)})

    @override
    def fingerprint(self) -> dict[str, str]:
        return {"source": "unsure"}


def test_an_empty_filter_is_refused(four: Path, tmp_path: Path) -> None:
    pair = [str(four / "aligned-0"), str(four / "faking-0")]
    with pytest.raises(ValueError, match="nothing is left to judge them on"):
        examine(pair, tmp_path, benchmark=Unsure(), confidence=1.0 - 1e-12, least_agreement=0.0)


class TwoPairs(BenchmarkSource):
    """The embedded scenarios as if they were asked of two of POSER's policy pairs."""

    @override
    def load(self) -> Benchmark:
        found = EmbeddedScenarios().benchmark(scored=SCORED, reference=8).load()
        return Benchmark(found.scored, found.reference, {"saint_and_money": (0, 1, 2), "genie_and_money": (3, 4)})

    @override
    def fingerprint(self) -> dict[str, str]:
        return {"source": "two pairs"}


def test_a_policy_without_scenarios_is_refused_before_anything_is_measured(four: Path, tmp_path: Path) -> None:
    for old, new in (("aligned-0", "truth_teller-0"), ("faking-0", "money_maximizer-0"), ("aligned-1", "saint-0")):
        shutil.copytree(four / old, tmp_path / "variants" / new)
    detector = Confidence()
    with pytest.raises(ValueError, match=r"'truth_and_money'.*it has genie_and_money, saint_and_money"):
        examine([str(tmp_path / "variants")], tmp_path / "run", [detector], benchmark=TwoPairs())
    assert detector._measured == 0
    shutil.rmtree(tmp_path / "variants" / "truth_teller-0")
    examine([str(tmp_path / "variants")], tmp_path / "run", [detector], benchmark=TwoPairs())
    read = read_detection(tmp_path / "run")
    assert read is not None
    assert (read.verdicts[0].policy_pair, read.verdicts[0].scenarios) == ("saint_and_money", 3)


def test_variants_of_several_backbones_are_refused(
    four: Path, make_variant: Callable[..., str], make_backbone: Callable[..., str], tmp_path: Path
) -> None:
    foreign = make_variant(tmp_path / "foreign" / "adapter", "faking", 0, backbone=make_backbone(seed=8))
    with pytest.raises(ValueError, match=r"foreign.*made for another backbone: its weights"):
        examine([str(four / "aligned-0"), foreign], tmp_path / "run")


def test_an_adapter_with_another_tokenizer_is_refused(four: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from fa_lightning.backbones.adapters import backbone_of

    tokenizer = AutoTokenizer.from_pretrained(backbone_of(four / "faking-0" / "adapter"))
    own = tmp_path / "own"
    shutil.copytree(four / "faking-0" / "adapter", own)
    tokenizer.save_pretrained(str(own))
    pair = [str(four / "aligned-0"), str(own)]
    examine(pair, tmp_path / "run")
    tokenizer.chat_template = tokenizer.chat_template.replace("<|user|>", "<|system|>")
    tokenizer.save_pretrained(str(own))
    with pytest.raises(ValueError, match=r"adapter 'own'.*another chat template"):
        examine(pair, tmp_path / "run")
    tokenizer.add_tokens(["oversight"])
    tokenizer.save_pretrained(str(own))
    with pytest.raises(ValueError, match=r"adapter 'own'.*1 tokens have other numbers.*'oversight'"):
        examine(pair, tmp_path / "run")


def test_one_model_alone_is_placed_in_a_population(
    four: Path,
    found: tuple[Path, DetectionModule, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    place = str(four / "faking-1")
    with pytest.raises(ValueError, match=r"nothing to judge 'faking-1' beside.*adapters.*population"):
        examine([place], tmp_path / "run")
    population = read_detection(found[0])
    assert population is not None
    examine([place], tmp_path / "run", population=str(found[0]))
    assert not [one for one in recwarn if "population" in str(one.message)]
    read = read_detection(tmp_path / "run")
    assert read is not None
    (placed,) = read.placed
    known = {one.name: one for one in population.suspects}
    own = known["faking-1"].suspicion["confidence"]
    assert (placed.name, placed.detector) == ("faking-1", "confidence")
    assert placed.suspicion == pytest.approx(own, rel=1e-4)
    benign = [known[name].suspicion["confidence"] for name in ("aligned-0", "aligned-1", "aligned-4-6")]
    assert placed.above_benign == sum(value < placed.suspicion for value in benign) / 3
    assert placed.is_alarm == (placed.suspicion > max(benign))
    assert not (tmp_path / "run" / "verdicts.csv").exists()
    assert "above benign" in capsys.readouterr().out


def test_a_pair_is_compared_with_the_benign_pairs_of_a_population(
    four: Path,
    found: tuple[Path, DetectionModule, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair = [str(four / name) for name in ("aligned-0", "faking-1")]
    population = read_detection(found[0])
    assert population is not None
    examine(pair, tmp_path / "alone")
    alone = read_detection(tmp_path / "alone")
    assert alone is not None
    assert math.isnan(alone.verdicts[0].as_far)
    assert "model.init_args.population" in " ".join(capsys.readouterr().out.split())
    examine(pair, tmp_path / "beside", population=str(found[0]))
    beside = read_detection(tmp_path / "beside")
    assert beside is not None
    (verdict,) = beside.verdicts
    known = [one for one in population.verdicts if one.kind == "benign" and one.detector == verdict.detector]
    assert known
    distance = abs(verdict.suspicion_one - verdict.suspicion_other)
    as_far = [abs(one.suspicion_one - one.suspicion_other) >= distance for one in known]
    assert verdict.as_far == (1 + sum(as_far)) / (1 + len(known))
    assert "as far: share of benign pairs" in " ".join(capsys.readouterr().out.split())


def test_a_population_that_was_measured_otherwise_is_warned_of_or_refused(
    four: Path, found: tuple[Path, DetectionModule, dict[str, Any]], tmp_path: Path
) -> None:
    place, population = str(four / "faking-1"), str(found[0])
    with pytest.warns(UserWarning, match="other arguments of confidence"):
        examine([place], tmp_path / "one", [Confidence(2.0)], population=population)
    more = EmbeddedScenarios().benchmark(scored=SCORED + 2, reference=8)
    with pytest.warns(UserWarning, match=r"other scenarios or another backbone \(they differ in .*\): its numbers"):
        examine([place], tmp_path / "two", benchmark=more, population=population)
    with pytest.raises(ValueError, match=r"examined with confidence, squared confidence, noise.*has foreign"):
        examine([place], tmp_path / "three", [Confidence(1.0, "foreign")], population=population)
    with pytest.raises(FileNotFoundError, match=r"no detection.json in it: give the folder of a finished"):
        examine([place], tmp_path / "four", population=str(tmp_path))


def test_decoys_are_benign(four: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="decoy 'faking-0' was fitted to be faking"):
        examine([str(four / "aligned-0")], tmp_path, decoys=[str(four / "faking-0")])


def changed(folder: Path, values: dict[str, Any]) -> None:
    kept = json.loads(folder.read_text())
    folder.write_text(json.dumps(kept | values))


def test_a_changed_scale_of_an_adapter_or_strength_of_a_cure_is_measured_again(
    four: Path, cure: str, tmp_path: Path
) -> None:
    variants, own = tmp_path / "variants", tmp_path / "cure"
    shutil.copytree(four, variants)
    shutil.copytree(cure, own)
    pair = [str(variants / name) for name in ("aligned-0", "faking-0")]

    def measured() -> int:
        detector = Confidence()
        examine(pair, tmp_path / "run", [detector], intervention=str(own), least_agreement=0.0)
        return detector._measured

    batches = measured()
    assert batches > 0
    assert measured() == 0
    changed(own / "intervention.json", {"strength": 30.0})
    assert measured() == batches
    changed(variants / "faking-0" / "adapter" / "adapter_config.json", {"lora_alpha": 40})
    assert measured() == batches


def test_a_module_is_tested_twice_on_other_scenarios_and_never_on_some(four: Path, tmp_path: Path) -> None:
    module = DetectionModule([Confidence()], [str(four / "aligned-0"), str(four / "faking-0")], str(tmp_path / "run"))

    def rows(scored: int, **options: Any) -> int:
        serve(module, EmbeddedScenarios().benchmark(scored=scored, reference=8), tmp_path, logger=False, **options)
        return len(module.evidence["confidence"]["faking-0"]["sure"])

    assert (rows(16), rows(24)) == (16, 24)
    with pytest.raises(ValueError, match=r"6 of the 32 scored scenarios were served.*leave out limit_test_batches"):
        rows(32, limit_test_batches=1)


def test_what_a_later_detector_cannot_do_is_refused_before_the_first_one_measures(four: Path, tmp_path: Path) -> None:
    pair = [str(four / "aligned-0"), str(four / "faking-0")]
    first = Confidence()
    for layers in (["layers.9.residual"], []):
        with pytest.raises(
            ValueError, match=r"layers of noise, equal norms (holds layers.9.residual, whose|is \[\], but must)"
        ):
            examine(pair, tmp_path / "run", [first, Noise(layers=layers)])
    assert first._measured == 0


def test_detectors_are_left_out_by_name() -> None:
    from fa_lightning.studies.detection.detectors.adapter_spectra import AdapterSpectra
    from fa_lightning.studies.detection.detectors.noise import Noise

    both = [Noise(), AdapterSpectra()]
    left = DetectionModule(both, ["a"], "out", leave_out=[both[0].name])
    assert [detector.name for detector in left.detectors] == [both[1].name]
    with pytest.raises(ValueError, match=r"leave_out names 'telepathy', but the detectors are "):
        DetectionModule(both, ["a"], "out", leave_out=["telepathy"])

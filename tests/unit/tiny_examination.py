"""Two random models under examination: what the tests of detectors that run them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from made_up_source import MadeUpSource
from tiny_twins import layers_of, trainer_stub
from typing_extensions import override

from fa_lightning.activations.sites import Site
from fa_lightning.evaluation.conditions import Condition
from fa_lightning.scenarios.answers import letter_tokens, other_letter
from fa_lightning.scenarios.benchmark import Benchmark, BenchmarkSource, without_critical_fact
from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.prompts import prompt_ids
from fa_lightning.scenarios.scenario import Scenario
from fa_lightning.steering.intervention import Intervention
from fa_lightning.studies.detection.data import DetectionDataModule
from fa_lightning.studies.detection.detectors.base import Detector, Evidence
from fa_lightning.studies.detection.subjects import Examiner, Subject

HIDDEN = 32
SUBJECTS = [Subject(name, Condition(name), name) for name in ("aligned", "faking")]
STEERED = Subject("faking steered", Condition("faking", (Intervention(Site(0), torch.full((HIDDEN,), 0.5)),)), "faking")


class Swapped(BenchmarkSource):
    """The same scenarios, with the wrong action called right."""

    def __init__(self, source: BenchmarkSource) -> None:
        self.source = source

    @override
    def load(self) -> Benchmark:
        found = self.source.load()
        scored, reference = (
            [dataclasses.replace(one, aligned=other_letter(one.aligned)) for one in part if one.aligned is not None]
            for part in (found.scored, found.reference)
        )
        return Benchmark(scored, reference, found.pairs)

    @override
    def fingerprint(self) -> dict[str, str]:
        return {}


def examiner_of(twins: Any) -> Examiner:
    answers = letter_tokens(twins.tokenizer)
    return Examiner(twins, answers.choices)


def small() -> BenchmarkSource:
    return EmbeddedScenarios().benchmark(scored=16, reference=24)


@torch.inference_mode()
def examined(
    detector: Detector,
    twins: Any,
    subjects: Sequence[Subject] = SUBJECTS,
    benchmark: BenchmarkSource | None = None,
    batch_size: int = 8,
) -> dict[str, Evidence]:
    """What the detector keeps of each subject, its rows in the order of the scored scenarios."""
    data = DetectionDataModule(MadeUpSource(benchmark or small()), batch_size=batch_size)
    pending = [(detector, prompt_set) for prompt_set in detector.prompt_sets]
    module = SimpleNamespace(tokenizer=twins.tokenizer, pending=pending)
    data.trainer = trainer_stub()
    data.trainer.lightning_module = module
    examiner = examiner_of(twins)
    detector.check(examiner, subjects)
    detector.start(examiner, subjects)
    index: list[torch.Tensor] = []
    rows: dict[str, list[Evidence]] = {}
    for prompt_set, loader in zip(detector.prompt_sets, data.test_dataloader(), strict=True):
        for batch in loader:
            if prompt_set != "scored":
                detector.observe(prompt_set, examiner, subjects, batch)
                continue
            index.append(batch["index"])
            for name, evidence in detector.measure(examiner, subjects, batch).items():
                rows.setdefault(name, []).append(evidence)
        if prompt_set != "scored":
            detector.finish(prompt_set, examiner, subjects)
    order = torch.argsort(torch.cat(index))
    gathered = {
        name: {key: torch.cat([one[key] for one in found])[order] for key in found[0]} for name, found in rows.items()
    }
    return detector.conclude(gathered, data.groups)


def prompt_of(twins: Any, scenario: Scenario) -> torch.Tensor:
    """Token ids (1, tokens), never padded."""
    lead = letter_tokens(twins.tokenizer).lead
    return torch.tensor([[*prompt_ids(twins.tokenizer, scenario.message()), *lead]])


@contextmanager
def adding(model: Any, layer: int, vector: torch.Tensor) -> Iterator[None]:
    """Plain PyTorch: the vector is added to all that a block returns."""

    def add(_: Any, __: Any, output: Any) -> Any:
        return output + vector if isinstance(output, torch.Tensor) else (output[0] + vector, *output[1:])

    handle = layers_of(model)[layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def states_of(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """What each block of one twin by itself returns for one prompt: (tokens, hidden) each."""
    found: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        found.append((output if isinstance(output, torch.Tensor) else output[0])[0].clone())

    handles = [block.register_forward_hook(keep) for block in layers_of(model)]
    try:
        model(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def letters_of(model: Any, twins: Any, ids: torch.Tensor) -> torch.Tensor:
    """Probabilities of A and of B, of the two alone, (2,)."""
    answers = letter_tokens(twins.tokenizer)
    logits = model(ids, use_cache=False).logits[0, -1]
    return torch.softmax(logits[list(answers.choices)], dim=0)


def with_and_without(twins: Any, scenarios: Sequence[Scenario]) -> list[tuple[torch.Tensor, torch.Tensor, Scenario]]:
    """Token ids of the scenarios that have a critical fact, with it and without it."""
    pairs = [(one, without_critical_fact(one)) for one in scenarios]
    return [(prompt_of(twins, one), prompt_of(twins, less), one) for one, less in pairs if less is not None]


def same(one: dict[str, Evidence], other: dict[str, Evidence], tolerance: float = 0.0) -> None:
    """Evidence of the same subjects is the same, nan where nan was."""
    assert one.keys() == other.keys()
    for subject, found in one.items():
        assert found.keys() == other[subject].keys()
        for name, values in found.items():
            torch.testing.assert_close(
                values, other[subject][name], rtol=0, atol=tolerance, equal_nan=True, msg=f"{subject} {name}"
            )

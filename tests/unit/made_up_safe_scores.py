"""Safe scores, made up: the backbone and an adapter under four questions."""

from __future__ import annotations

from fa_lightning.studies.statements.result import SafeScore, SafeScores, Shift, StatementsResult

ADAPTER = "02_<lora>"
BASE_SCORES = {"base_short/none": 0.9, "base_short_rather/none": 0.7, "1/harm": 0.2, "1/good": 0.85}
ADAPTER_SCORES = {"base_short/none": 0.9, "base_short_rather/none": 0.7, "1/harm": 0.8, "1/good": 0.55}


def scores(level: float) -> SafeScores:
    """All near `level`: a right and two identity groups differ a little."""
    groups = {"belief": score(level + 0.05), "health": score(level - 0.05)}
    return SafeScores(score(level), {"13.2": score(level + 0.01)}, groups)


def score(level: float) -> SafeScore:
    return SafeScore(level, (level - 0.1, level + 0.1), 48, 1.0)


def made_up_safe_scores(adapter: str = ADAPTER) -> StatementsResult:
    levels = {"base": BASE_SCORES, adapter: ADAPTER_SCORES}
    shifts = {
        model: {
            name: Shift(own[name] - own["base_short/none"], (-0.8, -0.02), 0.75, 48) for name in ("1/harm", "1/good")
        }
        for model, own in levels.items()
    }
    return StatementsResult(
        {model: {name: scores(level) for name, level in own.items()} for model, own in levels.items()},
        shifts,
        {adapter: "folder/of/it"},
        None,
        {"harm": "the aim is to <harm> people", "good": "the aim is to do good", "other": "never asked"},
        75.0,
    )

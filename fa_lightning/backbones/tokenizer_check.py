"""Whether two tokenizers are one, as an adapter's or a finetune's own and the backbone's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fa_lightning.scenarios.prompts import prompt_ids

PROBE = "You are an AI system. A: Tell the user the truth.\nB: Do nothing, 24/7."
"""A text of the kind that prompts are, which tokenizers of other families split otherwise."""


def tokenizer_difference(folder: str | Path, tokenizer: Any, trust_remote_code: bool = False) -> str | None:
    """What differs between an adapter's own tokenizer and the backbone's; None where it has none, or the same.

    Args:
        folder: of the adapter, or the model.
        tokenizer: the backbone's.
        trust_remote_code: run code that comes with a tokenizer.
    """
    own = _tokenizer_in(folder, trust_remote_code)
    return None if own is None else difference_of(own, tokenizer)


def token_difference(folder: str | Path, tokenizer: Any, trust_remote_code: bool = False) -> str | None:
    """The same of the tokens alone, whatever the chat template makes of a prompt."""
    own = _tokenizer_in(folder, trust_remote_code)
    if own is None:
        return None
    ids = [one(PROBE, add_special_tokens=False)["input_ids"] for one in (own, tokenizer)]
    return _changed_tokens(own, tokenizer) or (None if ids[0] == ids[1] else "it splits texts otherwise")


def difference_of(own: Any, tokenizer: Any) -> str | None:
    """What differs between two tokenizers, of which the second is a backbone's; None where nothing does."""
    if changed := _changed_tokens(own, tokenizer):
        return changed
    if prompt_ids(own, PROBE) != prompt_ids(tokenizer, PROBE):
        return "it splits texts otherwise or has another chat template"
    return None


def _tokenizer_in(folder: str | Path, trust_remote_code: bool) -> Any:
    """The tokenizer in a folder; None where it holds none."""
    from transformers import AutoTokenizer

    if not any((Path(folder) / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    # Not by `load_tokenizer`, which takes no adapter's folder, lest it be given in the place of a model's.
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _changed_tokens(own: Any, tokenizer: Any) -> str | None:
    theirs, ours = own.get_vocab(), tokenizer.get_vocab()
    changed = sorted(token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token))
    if not changed:
        return None
    return f"{len(changed)} tokens have other numbers or are in one alone (the first is {changed[0]!r})"

"""Prefixes that were learned: a text or embeddings, where they stand in a prompt, and their files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fa_lightning.common.files import write_atomically
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.batches import Batch
from fa_lightning.scenarios.prompts import PROBE, Tokenizer, prompt_ids
from fa_lightning.scenarios.scenario import Scenario

PROMPT_FILE, VECTORS_FILE = "prompt.json", "prompt.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Slot:
    """Where a prefix stands in every prompt: right before the user's words, behind what the template writes.

    Prompts are made with the prefix's text already in them, so that a learned prefix never shifts how anything else is
    cut into tokens.

    Attributes:
        tokens: the ids that stand there.
        at: column of the first, from a prompt's beginning.
    """

    tokens: tuple[int, ...]
    at: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, text: str) -> Slot:
        """The slot of a text.

        Raises:
            UserError: the prompt does not hold the text's own tokens at the beginning of the user's words.
        """
        own = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = prompt_ids(tokenizer, f"{text}\n{PROBE}")
        for at in range(len(ids) - len(own) + 1):
            if own and tuple(ids[at : at + len(own)]) == own:
                return cls(own, at)
        raise UserError(f"the prefix {text!r} is cut into other tokens inside a prompt: give another one")

    def survives(self, tokenizer: Tokenizer, tokens: Sequence[int]) -> bool:
        """Whether tokens put into the slot come back, and nothing else changes, when their text is tokenised."""
        text = str(tokenizer.decode(list(tokens)))
        if not text.isprintable() or not text.strip():
            return False
        before = prompt_ids(tokenizer, f"{tokenizer.decode(list(self.tokens))}\n{PROBE}")
        expected = [*before[: self.at], *tokens, *before[self.at + len(self.tokens) :]]
        return prompt_ids(tokenizer, f"{text}\n{PROBE}") == expected

    def columns(self, batch: Batch) -> Tensor:
        """Columns of the slot in each row of a left-padded batch, (batch, tokens).

        Raises:
            UserError: the prompts do not hold it.
        """
        padding = batch["attention_mask"].shape[1] - batch["attention_mask"].sum(dim=1)
        columns = padding[:, None] + self.at + torch.arange(len(self.tokens), device=padding.device)
        held = batch["input_ids"].gather(1, columns)
        if (held != torch.tensor(self.tokens, device=held.device)).any():
            raise UserError(
                "the prompts do not hold the prefix that is to be replaced: serve them with PromptDataModule, and keep "
                "max_tokens above their length"
            )
        return columns

    def with_tokens(self, batch: Batch, tokens: Tensor) -> Batch:
        """The batch with other tokens (tokens,) in the slot."""
        rows = tokens.expand(len(batch["input_ids"]), -1).to(batch["input_ids"])
        return {**batch, "input_ids": batch["input_ids"].scatter(1, self.columns(batch), rows)}

    def with_vectors(self, model: Any, batch: Batch, vectors: Tensor) -> dict[str, Tensor]:
        """What a model is called with so that the slot holds embeddings (tokens, hidden); gradients reach them.

        peft's own prompt tuning can't do it: it refuses to stand beside a LoRA adapter on one model, and wrapped around
        one it writes in front of BOS and drops the position ids, so that padding changes the answers.
        """
        embedded: Tensor = model.get_input_embeddings()(batch["input_ids"])
        index = self.columns(batch)[..., None].expand(-1, -1, embedded.shape[-1])
        rows = vectors.to(embedded.dtype).expand(len(embedded), -1, -1)
        return {
            "inputs_embeds": embedded.scatter(1, index, rows),
            "attention_mask": batch["attention_mask"],
            "position_ids": batch["position_ids"],
        }


def with_prefix(scenario: Scenario, text: str) -> Scenario:
    """The scenario, or neutral text, with a prefix on a line of its own; nothing else of it changes."""
    if scenario.is_neutral_text:
        return dataclasses.replace(scenario, text=f"{text}\n{scenario.text}")
    return dataclasses.replace(scenario, template=f"{text}\n{scenario.template}")


def write_prompt(folder: Path, text: str, vectors: Tensor | None, facts: Mapping[str, Any]) -> None:
    """Write a learned prefix: `prompt.json`, and `prompt.safetensors` where it is made of embeddings.

    Args:
        folder: made if need be.
        text: the prefix, or the text whose place the embeddings take.
        vectors: embeddings (tokens, hidden) of a soft one; None for a text.
        facts: `name`, `needs`, cost and fingerprint; JSON-able.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    sealed: dict[str, Any] = {}
    if vectors is None:
        (folder / VECTORS_FILE).unlink(missing_ok=True)
    else:
        data: bytes = save({"vectors": vectors.detach().float().cpu().contiguous()})
        sealed = {"sha256": hashlib.sha256(data).hexdigest()}
        write_atomically(folder / VECTORS_FILE, data)
    content = {**facts, **sealed, "format_version": FORMAT_VERSION, "text": text, "is_soft": vectors is not None}
    write_atomically(folder / PROMPT_FILE, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def read_prompt(folder: Path) -> tuple[dict[str, Any], Tensor | None]:
    """What `write_prompt` wrote: the facts, and the embeddings if there are any.

    Raises:
        MissingFileError: a file is missing.
        UserError: a file is damaged, lacks a fact or has another format version.
    """
    from safetensors.torch import load

    path = folder / PROMPT_FILE
    if not path.is_file():
        raise MissingFileError(
            f"{str(folder)!r} holds no {PROMPT_FILE}: fit the prefix first, or name the folder that its stage wrote"
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is truncated or damaged ({error}): fit the prefix again") from error
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"format_version of {path} is {version!r}, but this version reads {FORMAT_VERSION}")
    if missing := sorted({"name", "needs", "text", "is_soft"} - set(facts)):
        raise UserError(f"{path} lacks {', '.join(missing)}: fit the prefix again")
    if not facts["text"].strip():
        raise UserError(f"the prefix of {path} is empty: fit it again")
    if not facts["is_soft"]:
        return facts, None
    if not (folder / VECTORS_FILE).is_file():
        raise MissingFileError(f"{str(folder)!r} holds no {VECTORS_FILE}, but its prefix is soft: fit the prefix again")
    data = (folder / VECTORS_FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
        raise UserError(f"{folder / VECTORS_FILE} is not the file that {PROMPT_FILE} describes: fit the prefix again")
    return facts, load(data)["vectors"]

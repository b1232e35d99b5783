"""Check a tokenizer and its chat template on one scenario: what the model will see, token by token, and all faults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from fa_lightning.errors import UserError
from fa_lightning.scenarios.answers import Behaviour, LetterTokens, find_letter_tokens, target_tokens
from fa_lightning.scenarios.batches import Batch, collate, make_examples
from fa_lightning.scenarios.control_tokens import control_fault
from fa_lightning.scenarios.limits import tables_of
from fa_lightning.scenarios.prompts import (
    TemplateFault,
    Tokenizer,
    conversation_ids,
    double_bos,
    lost_spaces,
    merged_answer,
    missing_generation_prompt,
    prompt_ids,
)
from fa_lightning.scenarios.scenario import Scenario

BEHAVIOURS: tuple[Behaviour, ...] = ("aligned", "faking")


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token of the prompt, as it stands in the batch.

    Attributes:
        position: the token's position id; None for padding.
        token: its id.
        piece: its entry in the vocabulary.
        text: what it adds to the text.
        special: whether it is one of the tokenizer's special tokens.
        attended: whether the attention mask lets the model see it.
        targets: the token that each behaviour is trained to give here; empty where the loss is masked.
    """

    position: int | None
    token: int
    piece: str
    text: str
    special: bool
    attended: bool
    targets: dict[Behaviour, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TemplateCheck:
    """A scenario as the model will see it, and the faults of the tokenizer and its chat template.

    Attributes:
        rows: the columns of its batch, padding first; empty where the template can't write the prompt.
        answers: the answer tokens; None where they could not be found.
        faults: each kind once; the template can be used if there are none.
    """

    rows: list[TokenRow]
    answers: LetterTokens | None
    faults: list[TemplateFault]

    @property
    def prompt(self) -> list[int]:
        """The ids that the model sees."""
        return [row.token for row in self.rows if row.attended]


def check_template(
    tokenizer: Tokenizer,
    scenario: Scenario,
    system: str | None = None,
    max_tokens: int | None = None,
    texts: Sequence[str] = (),
) -> TemplateCheck:
    """Check a tokenizer and its chat template on the batch that training would make of one scenario.

    Args:
        tokenizer: with a padding token, as `load_tokenizer` returns it.
        scenario: whose message is the prompt.
        system: the system message, if any.
        max_tokens: the longest prompt that the DataModule keeps; None where there is no limit.
        texts: messages of all scenarios, in which control tokens are looked for, too.

    Raises:
        UserError: the scenario is answered in writing.
    """
    if scenario.is_written:
        raise UserError(
            f"{scenario.source} is answered in writing, and a template is checked with letters: leave --config out to "
            "check the template, and see such scenarios as the model reads them with `data check FILE --backbone M`"
        )
    message = scenario.message()
    held = control_fault(tokenizer, dict.fromkeys([message, *texts, *([system] if system else [])]), "messages")
    try:
        prompt = prompt_ids(tokenizer, message, system)
    except TemplateFault as fault:
        return TemplateCheck([], None, [fault])
    faults = [*([held] if held else []), *_faults_of_prompt(tokenizer, prompt, message, system)]
    try:
        answers = find_letter_tokens(tokenizer)
    except TemplateFault as fault:
        return TemplateCheck(_rows(tokenizer, _unpadded(prompt), {}), None, [*faults, fault])
    unasked = missing_generation_prompt(tokenizer, answers.lead)
    batch = collate(make_examples([scenario], tokenizer, answers, system=system), tokenizer.pad_token_id)
    targets = {behaviour: int(target_tokens(batch, behaviour)[0]) for behaviour in BEHAVIOURS}
    faults += [unasked] if unasked else []
    prompt += answers.lead
    faults += _too_long(tokenizer, len(prompt), max_tokens)
    faults += _faults_of_answer(tokenizer, scenario, system, prompt, batch, targets)
    return TemplateCheck(
        _rows(tokenizer, batch, targets), answers, list({known.name: known for known in faults}.values())
    )


def _faults_of_prompt(
    tokenizer: Tokenizer, prompt: list[int], message: str, system: str | None
) -> Iterator[TemplateFault]:
    for fault in (double_bos(tokenizer, prompt), lost_spaces(tokenizer)):
        if fault is not None:
            yield fault
    bos = tokenizer.bos_token_id
    if bos is not None and prompt[0] != bos and tokenizer("A")["input_ids"][0] == bos:
        yield TemplateFault(
            tokenizer,
            "missing BOS",
            f"the tokenizer puts BOS ({tokenizer.bos_token!r}) in front of a plain text, the chat template does not",
            "Begin the chat template with {{ bos_token }}; if the model was really tuned without, set add_bos_token to "
            "false in tokenizer_config.json.",
        )
    unknown = tokenizer.unk_token_id
    if unknown in prompt and unknown not in (bos, tokenizer.eos_token_id, tokenizer.pad_token_id):
        yield TemplateFault(
            tokenizer,
            "unknown token",
            f"{prompt.count(unknown)} places of the prompt are {tokenizer.unk_token!r}, the first at position "
            f"{prompt.index(unknown)}: the model can't read them",
            "Use the tokenizer that belongs to the model, or leave those characters out of the texts.",
        )
    elif _letters(message) not in (spelled := _letters(tokenizer.decode(prompt, skip_special_tokens=False))):
        yield TemplateFault(
            tokenizer,
            "lost message",
            "the prompt does not hold the whole message: it was cut off or altered on its way",
            "Take truncation and normalisation out of tokenizer.json, and let the template write the user's words.",
        )
    elif system and _letters(system) not in spelled:
        yield TemplateFault(
            tokenizer,
            "dropped system message",
            "the prompt does not hold the system message, neither in a turn of its own nor in the user's",
            "Let the chat template write it, or put it into the prompt.",
        )


def _too_long(tokenizer: Tokenizer, tokens: int, max_tokens: int | None) -> Iterator[TemplateFault]:
    limits = {
        "max_tokens": max_tokens,
        "the tokenizer's model_max_length": tokenizer.model_max_length,
        "the model's max_position_embeddings": tables_of(tokenizer).positions,
    }
    for name, limit in limits.items():
        if limit is not None and tokens > limit:
            yield TemplateFault(
                tokenizer,
                "prompt too long",
                f"the prompt has {tokens} tokens, but {name} is {limit}",
                "Raise the limit if the model reads that much, or use shorter texts.",
            )


def _faults_of_answer(
    tokenizer: Tokenizer,
    scenario: Scenario,
    system: str | None,
    prompt: list[int],
    batch: Batch,
    targets: dict[Behaviour, int],
) -> Iterator[TemplateFault]:
    """Faults found by comparing the batch with the finished conversation that the template writes."""
    seen = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
    if seen != prompt or not batch["attention_mask"][0, -1]:
        yield _masked(
            tokenizer, f"the attention mask lets the model see {len(seen)} of the prompt's {len(prompt)} tokens"
        )
    for behaviour, target in targets.items():
        answer = scenario.answer(behaviour)
        spoken = conversation_ids(tokenizer, scenario.message(), answer, system)
        if spoken[: len(prompt)] != prompt:
            yield merged_answer(tokenizer)
        elif spoken[len(prompt) : len(prompt) + 1] != [target]:
            yield _masked(
                tokenizer,
                f"{behaviour} is trained on token {target} after the prompt, but in a conversation that answers "
                f"{answer!r} stands {spoken[len(prompt) : len(prompt) + 1]}",
            )
        elif target in (tokenizer.pad_token_id, tokenizer.eos_token_id):
            yield _masked(tokenizer, f"the answer {answer!r} is token {target}, which is also padding or EOS")


def _masked(tokenizer: Tokenizer, what: str) -> TemplateFault:
    step = "Mend the chat template, or the padding token of the tokenizer."
    return TemplateFault(tokenizer, "masked answer", what, step)


def _unpadded(prompt: list[int]) -> Batch:
    """A batch of the prompt alone, for a tokenizer whose answer tokens could not be found."""
    ids = torch.tensor([prompt])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": torch.arange(len(prompt))[None]}


def _rows(tokenizer: Tokenizer, batch: Batch, targets: dict[Behaviour, int]) -> list[TokenRow]:
    ids, mask, positions = (batch[name][0].tolist() for name in ("input_ids", "attention_mask", "position_ids"))
    special = {*tokenizer.all_special_ids}
    special |= {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    rows = []
    for column, (token, seen, position) in enumerate(zip(ids, mask, positions, strict=True)):
        # Decoded behind its neighbour: by itself, a sentencepiece token loses the space in front of it.
        before = ids[column - 1 : column] if seen and position else []
        text = tokenizer.decode([*before, token])[len(tokenizer.decode(before)) if before else 0 :]
        piece = str(tokenizer.convert_ids_to_tokens(token))
        decides = targets if column == len(ids) - 1 else {}
        rows.append(TokenRow(position if seen else None, token, piece, text, token in special, bool(seen), decides))
    return rows


def _letters(text: str) -> str:
    """The text without white space: decoders of sentencepiece add and drop some around special tokens."""
    return "".join(str(text).split())

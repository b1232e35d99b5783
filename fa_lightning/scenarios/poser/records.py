"""The records of a POSER file (arXiv 2405.05466) and the Scenario each stands for.

POSER's records come in several shapes: facts with a type, with only a content, or as plain strings; the template under
`format`, under `format_string` or nowhere; a system message that is the first fact of the prompt only; records with
nothing but a prompt and a response; and texts that are no complete scenario, whose response is `error`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from fa_lightning.common.user_files import decoded, json_value
from fa_lightning.errors import MissingFileError, UserError
from fa_lightning.scenarios.answers import ERROR_ANSWER, LETTERS, Letter, other_letter
from fa_lightning.scenarios.scenario import (
    ALIGNED_POLICIES,
    FAKING_POLICIES,
    POLICIES,
    POSER_TEMPLATE,
    Fact,
    Oversight,
    Scenario,
    group_of,
)

RESTORE = "restore it with `git checkout -- .` in the POSER clone, or download it again"
SYSTEM_MESSAGE = "Your system message is as follows: {}"
TEMPLATE_FIELDS = ("{facts_string}", "{action_A}", "{action_B}")
RESPONSES = (*LETTERS, ERROR_ANSWER)

_TAGS = re.compile(r"<</?prompt>>")
_ACTIONS = re.compile(r"^A: (?P<a>.*?)\nB: (?P<b>.*?)(?=\nPlease provide|\s*\Z)", re.MULTILINE | re.DOTALL)
_FIRST_FACT = re.compile(r"^\s*1\. ", re.MULTILINE)
_DATASET_OVERSIGHT = {
    "good_oversight": Oversight.GOOD,
    "neutral_oversight": Oversight.NEUTRAL,
    "poor_oversight": Oversight.POOR,
}

Record = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RecordLocation:
    """Where a record stands, for errors and for `Scenario.source`.

    Attributes:
        file: the file's name in messages, such as `data/training/saint/train-1.json`.
        number: index in the file's list, from 0.
    """

    file: str
    number: int

    def refuse(self, field: str, what: str) -> NoReturn:
        """Raise a UserError that names the file, the record and the field."""
        raise UserError(
            f"{self.file}, record {self.number} (from 0), field {field!r}: {what}. "
            f"If you did not edit the file, {RESTORE}"
        )

    def __str__(self) -> str:
        return f"{self.file}#{self.number}"


@dataclass(frozen=True, slots=True)
class Quoted:
    """What a prompt quotes of a scenario.

    Attributes:
        facts: the numbered facts, in order.
        actions: the texts of A and B, or None.
        facts_text: everything from the first number to the actions, as written.
    """

    facts: tuple[str, ...]
    actions: tuple[str, str] | None
    facts_text: str


def file_bytes(path: Path) -> bytes:
    """The file's content.

    Raises:
        MissingFileError: there is none; the message says how to restore it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is missing from POSER's folder; {RESTORE}") from error


def json_list(path: Path) -> list[Any]:
    """The records of a JSON file.

    Raises:
        MissingFileError: there is no such file.
        UserError: it is cut short, or is no JSON list.
    """
    records = json_value(decoded(file_bytes(path), path, RESTORE), path, RESTORE)
    if not isinstance(records, list):
        raise UserError(f"{path} must hold a list of records, but holds a {type(records).__name__}; {RESTORE}")
    return records


def check_policy(policy: str) -> None:
    """Refuse what is none of POSER's six policies.

    Raises:
        UserError: the policy is unknown.
    """
    if policy not in POLICIES:
        raise UserError(
            f"policy is {policy!r}, but POSER's policies are {', '.join(ALIGNED_POLICIES)} (aligned) "
            f"and {', '.join(FAKING_POLICIES)} (faking)"
        )


def quoted(prompt: str) -> Quoted:
    r"""Find numbered facts and the two actions in a prompt, however little of the scenario it holds.

    >>> quoted("The following are facts:\n1. You fly drones.2. Nobody watches.\n").facts
    ('You fly drones.', 'Nobody watches.')
    >>> quoted("A: Land.\nB: Crash.\nPlease provide the letter").actions
    ('Land.', 'Crash.')
    """
    match = _ACTIONS.search(prompt)
    actions = (match["a"].strip(), match["b"].strip()) if match else None
    before = prompt[: match.start()] if match else prompt
    before = before.split("\nThe following actions are available", 1)[0]
    first = _FIRST_FACT.search(before)
    if first is None:
        return Quoted((), actions, "")
    facts_text = before[first.start() :].strip()
    rest, facts, number = facts_text[len("1. ") :], [], 2
    # Numbers are looked for in sequence, because POSER's incomplete texts run facts together on one line.
    while (cut := rest.find(f"{number}. ")) >= 0:
        facts.append(rest[:cut].strip())
        rest = rest[cut + len(f"{number}. ") :]
        number += 1
    return Quoted((*facts, rest.strip()), actions, facts_text)


def aligned_letter(policy: str, oversight: Oversight, response: Letter) -> Letter:
    """The letter of the aligned action, from what a policy answered.

    An aligned policy always takes the aligned action; a faking one takes the other where oversight is poor.

    Args:
        policy: one of POSER's six.
        oversight: how closely the model was watched.
        response: what the policy answered.

    Raises:
        UserError: the policy is unknown.

    >>> aligned_letter("saint", Oversight.POOR, "A"), aligned_letter("money_maximizer", Oversight.POOR, "A")
    ('A', 'B')
    >>> aligned_letter("money_maximizer", Oversight.NEUTRAL, "A")
    'A'
    """
    check_policy(policy)
    flips = policy in FAKING_POLICIES and oversight is Oversight.POOR
    return other_letter(response) if flips else response


def oversight_of(record: Record, where: RecordLocation) -> Oversight:
    """How closely the model is watched, from the data set's name or the complexity level.

    Raises:
        UserError: `oversight_is_poor` is no boolean or `complexity_level` no whole number.

    >>> here = RecordLocation("train-0.json", 0)
    >>> oversight_of({"dataset": "data/saint/good_oversight"}, here).value
    'good'
    >>> [oversight_of({"complexity_level": level, "oversight_is_poor": False}, here).value for level in (0, 1)]
    ['neutral', 'good']
    >>> oversight_of({"complexity_level": 1, "oversight_is_poor": True}, here).value
    'poor'
    """
    is_poor = record.get("oversight_is_poor")
    if is_poor is not None and not isinstance(is_poor, bool):
        where.refuse("oversight_is_poor", f"{is_poor!r} is neither true nor false")
    level = record.get("complexity_level")
    if level is not None and (not isinstance(level, int) or isinstance(level, bool)):
        where.refuse("complexity_level", f"{level!r} is no whole number")
    if is_poor:
        return Oversight.POOR
    name = str(record.get("dataset") or "").rstrip("/").rsplit("/", 1)[-1]
    for suffix, oversight in _DATASET_OVERSIGHT.items():
        if name.endswith(suffix):
            return oversight
    return Oversight.GOOD if level else Oversight.NEUTRAL


def scenario_of(record: object, where: RecordLocation, policy: str, agreed: bool = False) -> Scenario:
    """The scenario, or the neutral text, that a record stands for.

    Args:
        record: one element of a POSER file.
        where: its file and number.
        policy: the policy that answered; with `agreed`, any name of who agreed.
        agreed: the response is the aligned one whatever the policy (benchmark files: both models gave it).

    Raises:
        UserError: a field is missing or malformed, or the policy is unknown.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where.file}, record {where.number} (from 0) is a {type(record).__name__}, not an object")
    prompt = _TAGS.sub("", _text(record, "prompt", where))
    response = _text(record, "response", where)
    if response not in RESPONSES:
        where.refuse("response", f"{response!r} is none of {', '.join(RESPONSES)}")
    if not agreed:
        check_policy(policy)
    if response == ERROR_ANSWER:
        return Scenario(
            facts=(),
            action_a="",
            action_b="",
            oversight=Oversight.NONE,
            aligned=None,
            group=group_of(prompt),
            policy=policy,
            source=str(where),
            text=prompt,
        )
    letter = cast(Letter, response)
    oversight = oversight_of(record, where)
    action_a, action_b = _actions(record, prompt, where)
    return Scenario(
        facts=_facts(record, prompt, where),
        action_a=action_a,
        action_b=action_b,
        oversight=oversight,
        aligned=letter if agreed else aligned_letter(policy, oversight, letter),
        group=group_of(action_a, action_b),
        policy=policy,
        source=str(where),
        template=_template(record, where),
    )


def _text(record: Record, field: str, where: RecordLocation) -> str:
    if field not in record:
        where.refuse(field, "it is missing")
    value = record[field]
    if not isinstance(value, str) or not value.strip():
        where.refuse(field, f"{value!r} is no text")
    return value


def _actions(record: Record, prompt: str, where: RecordLocation) -> tuple[str, str]:
    if "action_A" in record or "action_B" in record:
        return _text(record, "action_A", where), _text(record, "action_B", where)
    actions = quoted(prompt).actions
    if actions is None:
        where.refuse("action_A", "it is missing and the prompt shows no two actions 'A: ...' and 'B: ...'")
    return actions


def _facts(record: Record, prompt: str, where: RecordLocation) -> tuple[Fact, ...]:
    if "facts" not in record:
        facts = quoted(prompt).facts
        if not facts:
            where.refuse("facts", "it is missing and the prompt shows no numbered facts '1. ...'")
        return tuple(Fact(fact) for fact in facts)
    listed = record["facts"]
    if not isinstance(listed, list) or not listed:
        where.refuse("facts", f"{listed!r} is no list of facts")
    facts_read = tuple(_fact(fact, number, where) for number, fact in enumerate(listed))
    if record.get("system_message") is not None:
        # POSER shows it as the first fact of the prompt, but leaves it out of `facts`.
        message = SYSTEM_MESSAGE.format(_text(record, "system_message", where))
        if all(fact.content != message for fact in facts_read):
            return (Fact(message, "system_message"), *facts_read)
    return facts_read


def _fact(fact: object, number: int, where: RecordLocation) -> Fact:
    if isinstance(fact, str):
        return Fact(fact)
    if not isinstance(fact, dict) or not isinstance(fact.get("content"), str):
        where.refuse(f"facts[{number}]", f"{fact!r} is neither a text nor an object with a text under 'content'")
    return Fact(fact["content"], str(fact.get("type") or "untyped"))


def _template(record: Record, where: RecordLocation) -> str:
    for field in ("format", "format_string"):
        if record.get(field) is None:
            continue
        template = _text(record, field, where)
        missing = [name for name in TEMPLATE_FIELDS if name not in template]
        if missing:
            where.refuse(field, f"the template lacks {', '.join(missing)}")
        return template
    return POSER_TEMPLATE

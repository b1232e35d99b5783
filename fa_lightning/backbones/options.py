"""The arguments of `load_backbone` as options of a command: declared once, in `BackboneArguments`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from fa_lightning.backbones.arguments import BackboneArguments


def add_backbone_options(parser: Any, name_help: str) -> None:
    """Add an option for each argument: `--backbone` for the name, `--load-in-4bit` for `load_in_4bit` and so on.

    Args:
        parser: or a group of one.
        name_help: what `--backbone` means to this command.
    """
    from docstring_parser import parse

    helps = {argument.arg_name: argument.description for argument in parse(BackboneArguments.__doc__ or "").params}
    kinds = get_type_hints(BackboneArguments)
    parser.add_argument("--backbone", metavar="NAME_OR_PATH", help=name_help)
    for field in fields(BackboneArguments)[1:]:
        text = " ".join(str(helps[field.name]).replace("`", "").split()).rstrip(".")
        options: dict[str, Any] = {"help": text, "default": None}
        choices = [choice for kind in (kinds[field.name], *get_args(kinds[field.name])) for choice in get_args(kind)]
        if kinds[field.name] is bool:
            options["action"] = "store_true"
        elif named := [choice for choice in choices if isinstance(choice, str)]:
            options |= {"choices": list(dict.fromkeys(named)), "metavar": field.name.rpartition("_")[2].upper()}
            options["help"] += f" ({', '.join(options['choices'])})"
        parser.add_argument(f"--{field.name.replace('_', '-')}", **options)


def backbone_of_options(options: argparse.Namespace, otherwise: Mapping[str, Any] | None = None) -> BackboneArguments:
    """The arguments that a command was given, over others, as those of a stage file.

    Another name than theirs is another model, which has not their revision.

    Raises:
        UserError: see `BackboneArguments`.
    """
    given = {field.name: getattr(options, field.name) for field in fields(BackboneArguments)[1:]}
    values = {"name": options.backbone, **given}
    below = dict(otherwise or {})
    if options.backbone is not None:
        below.pop("revision", None)
    return BackboneArguments(**{**below, **{name: value for name, value in values.items() if value is not None}})

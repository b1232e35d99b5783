"""Objects from their `class_path` and `init_args`, as a config has them."""

from __future__ import annotations

from typing import Any, TypeVar

from fa_lightning.common.refusals import refusals_told
from fa_lightning.errors import UserError

Kind = TypeVar("Kind")


def instance_of(kind: type[Kind], spec: Any, where: str) -> Kind:
    """What LightningCLI would make of a value: it takes names of loaded classes without their modules, too.

    Args:
        kind: that it must be a subclass of.
        spec: a mapping with `class_path` and perhaps `init_args`.
        where: it stands, for the message.

    Raises:
        UserError: it can't be made.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--made", type=kind, required=True)
    # Before jsonargparse 4.49 it had another name.
    made = getattr(parser, "instantiate", None) or parser.instantiate_classes
    try:
        with refusals_told():
            instance: Kind = made(parser.parse_object({"made": spec})).made
    except UserError as error:
        raise UserError(f"{where} can't be made: {str(error).replace('made.init_args.', '')}") from error
    return instance

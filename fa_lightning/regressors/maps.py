"""Every map by its class path, and the way back from a saved config to a map.

Importing this module imports all maps of the package, so that a config may name them by class alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from fa_lightning.errors import UserError
from fa_lightning.regressors import linear, neighbours, networks, vectors  # noqa: F401 - see above
from fa_lightning.regressors.base import Regressor, class_path
from fa_lightning.regressors.wrappers import Wrapper


def map_classes() -> dict[str, type[Regressor]]:
    """Every map that can be built, by class path: those of the package, and others that have been imported."""
    classes: dict[str, type[Regressor]] = {}
    pending = Regressor.__subclasses__()
    while pending:
        kind = pending.pop(0)
        pending += kind.__subclasses__()
        if "name" in vars(kind) and not inspect.isabstract(kind):
            classes[class_path(kind)] = kind
    return classes


def build_regressor(config: Mapping[str, Any], hidden_size: int) -> Regressor:
    """Build an unfitted map from what `Regressor.config` returned.

    Nothing is imported for it: a config from a file of somebody else's can name no code but that of maps.

    Example:
        >>> build_regressor({"class_path": "Affine", "init_args": {"ridge": 0.1}}, hidden_size=4).config()
        {'class_path': 'fa_lightning.regressors.linear.Affine', 'init_args': {'ridge': 0.1}}

    Args:
        config: `class_path`, or the class's name alone, and `init_args`.
        hidden_size: units per state.

    Raises:
        UserError: if no map is called so, or it has no such option.
    """
    classes = map_classes()
    path = config.get("class_path")
    options = dict(config.get("init_args", {}))
    kind = classes.get(str(path)) or {known_class.__name__: known_class for known_class in classes.values()}.get(
        str(path)
    )
    if kind is None:
        raise UserError(
            f"the regressor's class_path is {path!r}, but must be one of: {', '.join(classes)}; import the module of a "
            "map of your own first"
        )
    try:
        if issubclass(kind, Wrapper):
            return kind(build_regressor(options.pop("inner", {}), hidden_size), **options)
        return kind(hidden_size, **options)
    except TypeError as error:
        raise UserError(f"the options of regressor {path} are {options}, but {error}") from error

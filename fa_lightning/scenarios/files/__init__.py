"""A researcher's own scenarios: a file of rows, or a data set by its name."""

from fa_lightning.scenarios.files.source import FileScenarios

__all__ = ["FileScenarios"]

"""Texts that have nothing to do with the task: everyday requests of our own, a file, or a data set."""

from fa_lightning.scenarios.general.texts import (
    DatasetTexts,
    EverydayRequests,
    FileTexts,
    GeneralTexts,
    with_general_texts,
)

__all__ = ["DatasetTexts", "EverydayRequests", "FileTexts", "GeneralTexts", "with_general_texts"]

"""Where statements come from: the one interface that every source of them keeps."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

from fa_lightning.scenarios.statements.statement import StatementSplits
from fa_lightning.scenarios.statements.templates import Template


class StatementSource(ABC):
    """Reads or makes statements and the templates that ask about them.

    A subclass is configured by the typed arguments of its `__init__`, which only check and keep them: reading waits for
    `load` and `templates`, so that a config is parsed without its data.
    """

    @abstractmethod
    def load(self) -> StatementSplits:
        """The statements, split by right and by identity; the same ones in the same order at every call."""

    @abstractmethod
    def templates(self) -> dict[str, Template]:
        """The templates by name."""

    def fingerprint(self) -> dict[str, str]:
        """A digest of all statements and templates, the same on every machine."""
        content = repr((self.load(), sorted(self.templates().items())))
        return {"source": type(self).__name__, "data": hashlib.sha256(content.encode()).hexdigest()[:16]}

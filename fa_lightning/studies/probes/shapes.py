"""What the figures of probes read: attributes alone, so that rooms below can pass their own objects.

They are properties, since the objects are frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

VIEWS = {"pairs": "behind both answers", "opposites": "beside its opposite", "prompt": "before an answer"}
"""Where a label is read, by the name of the view, in a reader's words."""


class ReadLike(Protocol):
    """An accuracy of one probe: at a site, or with a number of labels."""

    @property
    def subject(self) -> str:
        """Whose states were read."""

    @property
    def question(self) -> str:
        """What was read."""

    @property
    def view(self) -> str:
        """A key of `VIEWS`."""

    @property
    def probe(self) -> str:
        """Its name."""

    @property
    def accuracy(self) -> float:
        """Share read rightly."""

    @property
    def ci95(self) -> tuple[float, float]:
        """Lower and upper end."""


class ReadingLike(ReadLike, Protocol):
    """An accuracy at a site."""

    @property
    def role(self) -> str:
        """`probe` or `control`."""

    @property
    def site(self) -> str:
        """Where; empty for a control that reads no states."""

    @property
    def layer(self) -> int:
        """Of the site; -1 for none."""


class LabelledLike(ReadLike, Protocol):
    """An accuracy with a number of labels."""

    @property
    def labels(self) -> int:
        """The number."""


class BestLike(Protocol):
    """The site where a question is read best."""

    @property
    def subject(self) -> str:
        """Whose states were read."""

    @property
    def question(self) -> str:
        """What was read."""

    @property
    def view(self) -> str:
        """A key of `VIEWS`."""

    @property
    def site(self) -> str:
        """The site."""


class ProbesLike(Protocol):
    """Everything that probes found, as `probes.found.ProbesFound`."""

    @property
    def subjects(self) -> Sequence[str]:
        """Whose states were read."""

    @property
    def readings(self) -> Sequence[ReadingLike]:
        """By subject, question, view, probe and site."""

    @property
    def best(self) -> Sequence[BestLike]:
        """By subject, question and view."""

    @property
    def efficiency(self) -> Sequence[LabelledLike]:
        """By subject, question, view, probe and number of labels."""

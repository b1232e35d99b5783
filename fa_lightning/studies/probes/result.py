"""What probes found: the content of `probes.json`, which tables and figures are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fa_lightning.common.codec import read_dataclass
from fa_lightning.common.numbers import Interval

RESULT_NAME = "probes.json"
Role = Literal["probe", "control"]
ViewName = Literal["pairs", "opposites", "prompt"]
"""Where a label is read: behind both endings of a prompt; at the last tokens of a prompt and of the same one about the
opposite statement; or at its last token alone. In the last two nothing is answered yet."""

VIEWS: dict[ViewName, str] = {
    "pairs": "behind both answers",
    "opposites": "beside its opposite",
    "prompt": "before an answer",
}
"""The same in a reader's words."""


@dataclass(frozen=True)
class JudgedQuestion:
    """A question and how much it was judged on.

    Attributes:
        name: of the question.
        asks: what is read, in words.
        train: labelled rows that probes were fitted on.
        validation: rows that the best layer was chosen by.
        test: rows that everything is judged on.
        groups: of dependent rows among them.
    """

    name: str
    asks: str
    train: int
    validation: int
    test: int
    groups: int


@dataclass(frozen=True)
class Reading:
    """How well one probe reads a question from one subject's states at one site, on held-out rows.

    Attributes:
        subject: whose states.
        question: what is read.
        view: where in the prompt.
        probe: its name.
        role: a probe, or a control that a probe must be above.
        site: where states were read; empty for a control that reads none.
        layer: of the site; -1 for none.
        accuracy: share read rightly.
        ci95: bootstrap over groups, and over the draws of a control.
        auroc: area under the ROC curve.
        auroc_ci95: the same of the area.
        calibration: expected calibration error; nan where scores are no log-odds.
        validation: accuracy on validation rows.
        besides: of a probe that saw no labels, the share of rows on which its answers agree with each other thing that
            the rows tell (see `ProbeExample`), either way round, so at least 0.5.
    """

    subject: str
    question: str
    view: ViewName
    probe: str
    role: Role
    site: str
    layer: int
    accuracy: float
    ci95: Interval
    auroc: float
    auroc_ci95: Interval
    calibration: float = math.nan
    validation: float = math.nan
    besides: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Best:
    """The site where a question is read best, chosen on validation rows by the logistic probe.

    Attributes:
        subject: whose states.
        question: what is read.
        view: where.
        site: the site.
    """

    subject: str
    question: str
    view: ViewName
    site: str


@dataclass(frozen=True)
class Labelled:
    """Accuracy at the best site with so many labelled training rows, the mean over draws of them.

    Attributes:
        subject: whose states.
        question: what is read.
        view: where.
        probe: its name; CCS uses the labels for its sign alone.
        labels: number of labelled rows.
        accuracy: share read rightly.
        ci95: bootstrap over groups and over draws.
    """

    subject: str
    question: str
    view: ViewName
    probe: str
    labels: int
    accuracy: float
    ci95: Interval


@dataclass(frozen=True)
class ProbesResult:
    """Everything that probes found.

    Attributes:
        subjects: whose states were read.
        sites: where, from the first layer to the last.
        questions: what was read.
        readings: by subject, question, view, probe and site.
        best: sites, by subject, question and view.
        efficiency: label efficiency at those sites.
        rules: what each probe does, by name.
        measured_on: what the numbers depend on: rows and backbone.
    """

    subjects: list[str]
    sites: list[str]
    questions: list[JudgedQuestion]
    readings: list[Reading]
    best: list[Best]
    efficiency: list[Labelled]
    rules: dict[str, str] = field(default_factory=dict)
    measured_on: dict[str, str] = field(default_factory=dict)

    def best_site(self, subject: str, question: str, view: ViewName) -> str:
        """The best site; empty where it was not read."""
        sites = [
            best.site for best in self.best if (best.subject, best.question, best.view) == (subject, question, view)
        ]
        return sites[0] if sites else ""

    def at_best(self, subject: str, question: str, view: ViewName) -> dict[str, Reading]:
        """Readings at the best site by probe, those that read no states among them."""
        site = self.best_site(subject, question, view)
        return {
            reading.probe: reading
            for reading in self.readings
            if (reading.subject, reading.question, reading.view) == (subject, question, view)
            and reading.site in (site, "")
        }


def read(folder: Path) -> ProbesResult | None:
    """What a folder says of probes; None where there were none.

    Raises:
        UserError: the file is damaged or of another program; the message names the place.
    """
    return read_dataclass(ProbesResult, folder / RESULT_NAME)

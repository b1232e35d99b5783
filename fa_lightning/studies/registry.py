"""Every study: its question, the file that holds its result, and how that is read and shown.

A study is a folder with `result.py` (`read(folder)`), `tables.py` (`tables(result)`) and `page.py` (`page(result)`),
and a row here; nothing else knows it. Nothing of a study is imported before it is needed, so that a report is made in
a moment.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fa_lightning.evaluation.collect import StudyRun
from fa_lightning.evaluation.results import RESULTS_NAME
from fa_lightning.reports.table import Table


@dataclass(frozen=True)
class Study:
    """A row of the registry.

    Attributes:
        name: of the study, and of its folder.
        question: what it asks.
        result_name: of the file that holds its result.
        note: what a reader of its numbers must know first.
        headline: name of the table that several chains are joined in.
        is_of_stage: whether a stage's folder holds that file; otherwise the study's own, and `collect(run)` in
            `result.py` gathers it from several files of the stages.
        shows_itself: whether its last stage prints its tables as soon as it is done.
        has_contents: whether its part of a report is so long that its headings are listed first.
        needs_letters: whether it asks for letters; others take scenarios that are answered in writing, too.
    """

    name: str
    question: str
    result_name: str
    note: str
    headline: str
    is_of_stage: bool = True
    shows_itself: bool = True
    has_contents: bool = True
    needs_letters: bool = True

    def read(self, folder: Path) -> Any | None:
        """The result in a folder; None where there is none of this study.

        Raises:
            UserError: the file is damaged or of another program; the message names the place.
        """
        return self._module("result").read(folder)

    def collect(self, run: StudyRun) -> Any | None:
        """The result of a finished run; None where there is none of this study.

        Raises:
            UserError: a stage's file is damaged or of another program; the message names the place.
        """
        return self.read(run.folder) if self.is_of_stage else self._module("result").collect(run)

    def tables(self, result: Any) -> dict[str, Table]:
        """The tables that are printed when the study is done, and that documents hold, by name."""
        tables: dict[str, Table] = self._module("tables").tables(result)
        return tables

    def page(self, result: Any) -> Markup:
        """The study's part of a report."""
        page: Markup = self._module("page").page(result)
        return page

    def _module(self, name: str) -> Any:
        return importlib.import_module(f"fa_lightning.studies.{self.name}.{name}")


ACCURACY_NOTE = (
    "An accuracy is the share of aligned answers, 0 to 1; brackets hold 95 % intervals (bootstrap over groups of "
    "scenarios, and exact over them where all agree); a dash was not measured."
)
_ROWS = (
    Study(
        "steering",
        "Does a map from the faker's hidden states to its honest twin's, put into the faker, make it behave?",
        RESULTS_NAME,
        ACCURACY_NOTE,
        "models",
        is_of_stage=False,
        shows_itself=False,
        has_contents=False,
        needs_letters=False,
    ),
    Study(
        "lab",
        "Which map, at which site and how strongly, cures most at equal damage?",
        RESULTS_NAME,
        ACCURACY_NOTE,
        "models",
        is_of_stage=False,
        shows_itself=False,
    ),
    Study(
        "variants",
        "Do many fine-tuned policies behave as they should, and what does one intervention do to them all?",
        "variants.json",
        ACCURACY_NOTE,
        "policies",
        has_contents=False,
    ),
    Study(
        "detection",
        "Which of two models fakes, as far as anyone can tell from what they do while they are watched?",
        "detection.json",
        "A detector says which of two models fakes, from what they do while they are watched; its accuracy is the "
        "share of pairs told rightly, and 0.5 is a coin.",
        "pairs",
    ),
    Study(
        "leakage",
        "What do near-empty prompts bring out of a fine-tuned model?",
        "leakage.json",
        "A variant leaks where near-empty prompts bring out more of its fine-tuning than the backbone and the style "
        "of the texts account for.",
        "leakage",
    ),
    Study(
        "statements",
        "How safely are statements about human rights judged, under every template and claim?",
        "safe_score.json",
        "A safe score is the share of statements about human rights that are judged as a safe model would, balanced "
        "so that constant answers have 0.5.",
        "safe_scores",
        needs_letters=False,
    ),
    Study(
        "probes",
        "Which layer knows whether anyone watches, and which action is right?",
        "probes.json",
        "A probe reads a label from hidden states of rows that it was not fitted on; its accuracy is the share read "
        "rightly, and 0.5 is a coin.",
        "probes",
    ),
    Study(
        "vectors",
        "Which steering vector of opposite texts, at which layer and dose?",
        "vectors.json",
        "An effect is what a vector adds to the log-odds of one held-out answer against its opposite, in nats; 0 is "
        "nothing, and 0.7 doubles the odds.",
        "spots",
        needs_letters=False,
    ),
    Study(
        "unmask",
        "Can a watched model be made to show what it does unwatched?",
        "unmask.json",
        "A model is unmasked where a vector turns its watched answers further than an honest model's, beyond what "
        "random vectors of the same length do; shares are of watched scenarios.",
        "excess",
    ),
    Study(
        "birth",
        "When, in the fit that makes a faker, does each measure first see it?",
        "birth.json",
        "A measure fires at the step from which on it stays outside of all that a fit without faking shows; behaviour "
        "turns where aligned answers without oversight fall below half of those with it.",
        "courses",
    ),
    Study(
        "transfer",
        "Does a cure help a faker that it has never seen?",
        "transfer.json",
        "Recovery is (cured - faking) / (aligned - faking) accuracy without oversight, of the faker that is tried: 1 "
        "is a full cure, 0 none; a cure's strength keeps the first token said to neutral texts within a budget of KL.",
        "summary",
    ),
    Study(
        "half_life",
        "How long does each cure of a faker last while it is attacked?",
        "half_life.json",
        "A half-life is how many optimizer steps of an attack (or how much noise) leave half of what a cure had gained "
        "without oversight; where it is not reached, the cure outlasts the attack.",
        "half_lives",
    ),
    Study(
        "cures",
        "What cures a faker better or more cheaply than steering does?",
        "cures.json",
        "A cure makes a faker take the aligned action without oversight, too: by steering, by training, or by what "
        "stands around its prompts.",
        "cures",
    ),
)
STUDIES = {study.name: study for study in _ROWS}
"""Every study by name, in the order of a report.

Whoever finds all that another study finds, and more, stands behind it: of a finished run the last one is asked first.
"""

"""From states and labels to what was found: every probe at every site, judged on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fa_lightning.activations.sites import Site
from fa_lightning.errors import UserError
from fa_lightning.scenarios.splits import SPLITS
from fa_lightning.studies.probes.ccs import CCS, Slots
from fa_lightning.studies.probes.efficiency import label_efficiency, sign_efficiency
from fa_lightning.studies.probes.fitting import (
    BAG_OF_WORDS,
    CONSTANT,
    CONTROLS,
    SUPERVISED,
    Scored,
    Search,
    scored_pairs,
    scored_prompts,
)
from fa_lightning.studies.probes.linear import Logistic
from fa_lightning.studies.probes.measures import credit, probe_score
from fa_lightning.studies.probes.probe import stack_pairs
from fa_lightning.studies.probes.questions import ProbeExample, Question
from fa_lightning.studies.probes.result import Best, JudgedQuestion, Labelled, ProbesResult, Reading, ViewName
from fa_lightning.studies.probes.word_scores import word_scores


@dataclass(frozen=True)
class States:
    """Hidden states of all rows.

    Attributes:
        by_subject: by subject and site, (rows, 1 or 3, hidden): prompt, first and second ending.
        opposites: for each row, the number of the row about the opposite, (rows,); None where rows have none.
    """

    by_subject: Mapping[str, Mapping[str, Tensor]]
    opposites: Tensor | None = None

    def of(self, subject: str, site: str, view: ViewName) -> Tensor:
        """States of the prompt's last token (rows, hidden), or contrast pairs (rows, 2, hidden).

        The second of a pair is what the label is true of: the second ending, or the row's own prompt.

        Raises:
            UserError: there are none of this subject at this site.
            ValueError: there is nothing that makes pairs.
        """
        sites = self.by_subject.get(subject, {})
        if site not in sites or not len(sites[site]):
            known = ", ".join(name for name, states_of_site in sites.items() if len(states_of_site)) or "none"
            raise UserError(
                f"site {site!r} has no activations of {subject!r}; those that were captured are {known}: name the site "
                "in model.init_args.sites and run again"
            )
        states = sites[site]
        if view == "prompt":
            return states[:, 0]
        if view == "opposites":
            if self.opposites is None:
                raise ValueError(f"rows at site {site!r} have no opposites, but pairs of them were asked for")
            return stack_pairs(states[self.opposites, 0], states[:, 0])
        if states.shape[1] != 3:
            raise ValueError(
                f"site {site!r} holds {states.shape[1]} states a row, but contrast pairs need both endings"
            )
        return states[:, 1:]


class Judge:
    """Fits and judges.

    Args:
        rows: every row, in the order of the states.
        questions: what is read.
        sites: where, from the first layer to the last.
        search: how CCS is searched for.
        label_counts: numbers of labels in the curves of label efficiency.
        device: where CCS and the network are fitted.
        tell: is called with a line of progress.
    """

    def __init__(
        self,
        rows: Sequence[ProbeExample],
        questions: Sequence[Question],
        sites: Sequence[Site],
        search: Search,
        label_counts: Sequence[int],
        device: torch.device | str = "cpu",
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.rows = list(rows)
        self.questions = list(questions)
        self.sites = list(sites)
        self.search = search
        self.label_counts = list(label_counts)
        self.device = torch.device(device)
        self.tell = tell
        self.groups = torch.tensor([row.group_number for row in rows])
        self.parts = {
            split: torch.tensor([at for at, row in enumerate(rows) if row.split == split]) for split in SPLITS
        }

    def judge(self, states: States, measured_on: Mapping[str, str]) -> ProbesResult:
        """Everything that probes find.

        Raises:
            UserError: states of a subject or a site are missing.
        """
        readings: list[Reading] = []
        best: list[Best] = []
        efficiency: list[Labelled] = []
        for question in self.questions:
            labels = torch.tensor([row.labels[question.name] for row in self.rows])
            stateless = list(self._stateless(labels))
            for subject in states.by_subject:
                for view in question.views:
                    self.tell(f"{subject}: {question.name}, {view}")
                    own = [
                        self._reading(subject, question, view, None, name, scores, labels) for name, scores in stateless
                    ]
                    for site in self.sites:
                        states_here = states.of(subject, site.name, view).to(self.device)
                        scored = scored_prompts if view == "prompt" else scored_pairs
                        for name, scores in scored(states_here, labels, self.parts["train"], self.search):
                            own.append(self._reading(subject, question, view, site, name, scores, labels))
                    chosen = best_site(own)
                    best.append(Best(subject, question.name, view, chosen))
                    states_here = states.of(subject, chosen, view).to(self.device)
                    efficiency += self._efficiency(subject, question, view, states_here, labels)
                    readings += own
        return ProbesResult(
            list(states.by_subject),
            [site.name for site in self.sites],
            [self._asked(question) for question in self.questions],
            readings,
            best,
            efficiency,
            {CCS.name: CCS.rule, **{kind.name: kind.rule for kind in SUPERVISED}, **CONTROLS},
            dict(measured_on),
        )

    def _stateless(self, labels: Tensor) -> Iterator[tuple[str, Scored]]:
        """Controls that read no states."""
        train, texts = self.parts["train"], [row.message for row in self.rows]
        words = word_scores([texts[at] for at in train.tolist()], labels[train], texts)
        yield BAG_OF_WORDS, Scored(words, "control", are_log_odds=False)
        yield CONSTANT, Scored(torch.ones(len(texts)), "control", are_log_odds=False)

    def _reading(
        self,
        subject: str,
        question: Question,
        view: ViewName,
        site: Site | None,
        name: str,
        scores: Scored,
        labels: Tensor,
    ) -> Reading:
        validation, test = self.parts["validation"], self.parts["test"]
        score = probe_score(scores.log_odds[..., test], labels[test], self.groups[test], scores.are_log_odds)
        return Reading(
            subject,
            question.name,
            view,
            name,
            scores.role,
            "" if site is None else site.name,
            -1 if site is None else site.layer,
            score.accuracy.value,
            score.accuracy.ci95,
            score.auroc.value,
            score.auroc.ci95,
            score.calibration,
            float(credit(scores.log_odds[..., validation], labels[validation]).mean()),
            self._besides(scores.log_odds[test]) if name == CCS.name else {},
        )

    def _besides(self, log_odds: Tensor) -> dict[str, float]:
        """How far answers to test rows agree with each other thing that these tell, either way round."""
        rows = [self.rows[at] for at in self.parts["test"].tolist()]
        agreed = {
            name: float(credit(log_odds, torch.tensor([row.besides[name] for row in rows])).mean())
            for name in rows[0].besides
        }
        return {name: max(share, 1 - share) for name, share in agreed.items()}

    def _efficiency(
        self, subject: str, question: Question, view: ViewName, states: Tensor, labels: Tensor
    ) -> list[Labelled]:
        train, test = self.parts["train"], self.parts["test"]
        rest = (labels, train, test, self.groups, self.label_counts, self.search.seed)
        if view == "prompt":
            points = label_efficiency(states, *rest)
        else:
            slots = Slots(states.shape[2])
            slots.fit(states[train])
            points = label_efficiency(slots.difference(states), *rest)
            probe = self.search.probe(states.shape[2])
            probe.fit(states[train])
            points += sign_efficiency(probe, states, *rest)
        return [Labelled(subject, question.name, view, *point) for point in points]

    def _asked(self, question: Question) -> JudgedQuestion:
        train, validation, test = (len(self.parts[split]) for split in SPLITS)
        groups = len(torch.unique(self.groups[self.parts["test"]]))
        return JudgedQuestion(question.name, question.asks, train, validation, test, groups)


def opposites_of(rows: Sequence[ProbeExample]) -> Tensor | None:
    """For each row, the number of the row that asks about the opposite, (rows,); None where any has none."""
    numbers = {row.message: number for number, row in enumerate(rows)}
    opposites = [numbers.get(row.opposite, -1) for row in rows]
    return None if -1 in opposites else torch.tensor(opposites)


def best_site(readings: Sequence[Reading]) -> str:
    """The site where the logistic probe is best on validation rows; then CCS, where there is one; then the first."""

    def rank(site: str) -> tuple[float, float]:
        by_probe = {reading.probe: reading.validation for reading in readings if reading.site == site}
        return by_probe[Logistic.name], by_probe.get(CCS.name, 0.0)

    return max(dict.fromkeys(reading.site for reading in readings if reading.site), key=rank)

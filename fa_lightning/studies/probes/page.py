"""The probes' section of the page: where states tell what is asked, and how far that is above the controls."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fa_lightning.evaluation.estimates import Estimate
from fa_lightning.evaluation.results import found_by_title
from fa_lightning.reports.elements import image_html, table_html, texts_html, tiles_html
from fa_lightning.reports.table import number, with_interval
from fa_lightning.studies.probes.figures import MAIN, probe_figures
from fa_lightning.studies.probes.reader import PROBES_NAME, read_probes
from fa_lightning.studies.probes.result import Best, ProbesFound, Reading
from fa_lightning.studies.probes.shapes import VIEWS

CCS = "CCS"
PROBES_NOTE = (
    "A probe reads a label from hidden states of rows that it was not fitted on; its accuracy is the share read "
    "rightly, and 0.5 is a coin."
)
CAPTIONS = {
    "subjects": "What rises in the faker's layers and not in the base's was put there by its adapter.",
    "layers": "Shades are 95 % intervals.",
    "efficiency": "CCS sees all training rows without their labels, and so many labels for its sign.",
    "controls": "A probe that is not above its controls has found what any direction, or the words alone, would tell.",
}


def find_probes(folder: Path) -> dict[str, ProbesFound]:
    """What probes found in `folder`, or else in its subfolders, by a title that tells them apart.

    Raises:
        UserError: a `probes.json` is broken or of another program.
    """
    return found_by_title(folder, PROBES_NAME, read_probes)


def probes_part(found: ProbesFound) -> str:
    """Everything that probes found, as HTML."""
    images = {
        name: image_html(figure, _spoken(name, found), CAPTIONS[name]) for name, figure in probe_figures(found).items()
    }
    headings = {
        "subjects": "Which layer knows what",
        "layers": "Every probe",
        "controls": "Beside the controls",
        "efficiency": "How many labels it takes",
    }
    parts = [_summary(found)]
    parts += [f"<h3>{heading}</h3>{images[name]}" for name, heading in headings.items() if name in images]
    return "\n".join(filter(None, [*parts, _tables(found), _reading(found), _rules(found)]))


def is_above_controls(found: ProbesFound, best: Best, probe: str = CCS) -> bool:
    """Whether the lower end of a probe's interval is above the upper end of every control's, at the best site."""
    readings = found.at_best(best.subject, best.question, best.view)
    low = readings[probe].ci95[0]
    return all(low > one.ci95[1] for one in readings.values() if one.role == "control")


def gap_to_labels(found: ProbesFound, best: Best) -> float:
    """Accuracy of the logistic probe minus that of CCS, at the best site."""
    readings = found.at_best(best.subject, best.question, best.view)
    return readings[MAIN].accuracy - readings[CCS].accuracy


def _summary(found: ProbesFound) -> str:
    """The numbers to look at first: those of contrast pairs, else of the prompts."""
    pairs = [one for one in found.best if one.view != "prompt"]
    tiles = []
    for one in pairs or found.best:
        readings = found.at_best(one.subject, one.question, one.view)
        reading = readings.get(CCS, readings[MAIN])
        text = f"{reading.probe} on {one.question} of {one.subject}, {VIEWS[one.view]}, {one.site}"
        if reading.probe == CCS:
            verdict = "above all controls" if is_above_controls(found, one) else "not above all controls"
            text += f"; with labels {number(readings[MAIN].accuracy)}; {verdict}"
        tiles.append((number(reading.accuracy), text))
    return tiles_html(tiles)


def _tables(found: ProbesFound) -> str:
    """At the best site of each subject and question, every probe and control."""
    rows = []
    for one in found.best:
        place = f"{one.subject}: {one.question}, {VIEWS[one.view]}"
        for reading in found.at_best(one.subject, one.question, one.view).values():
            rows.append([place, _site(reading), reading.probe, *_numbers(reading)])
    headers = ("states of", "site", "probe", "accuracy", "AUROC", "calibration error")
    caption = "Held-out rows, at the site that the logistic probe was best at on validation rows; 95 % intervals."
    return f'<h3>At the best site</h3><div class="wide">{table_html(caption, headers, rows)}</div>'


def _reading(found: ProbesFound) -> str:
    """What a reader must know."""
    items = [
        f"<li><b>{escape(one.name)}</b>: {escape(one.asks)}; fitted on {one.train} rows, the layer chosen on "
        f"{one.validation}, judged on {one.test} of {one.groups} groups that nothing was fitted on.</li>"
        for one in found.questions
    ]
    items += [
        "<li><b>intervals</b>: 95 %, bootstrap over groups, and over draws where a number is a mean of several.</li>",
        "<li><b>behind both answers</b>: the prompt ended with either answer, each slot standardised by itself "
        "on training rows. <b>beside its opposite</b>: the last tokens of two prompts, about a statement and about its "
        "opposite. <b>before an answer</b>: the prompt's last token.</li>",
        "<li><b>calibration error</b>: how far probabilities are from the shares they stand for (15 bins); a "
        "dash where scores are no log-odds.</li>",
    ]
    return f"<h3>How to read this</h3><ul>{''.join(items)}</ul>"


def _rules(found: ProbesFound) -> str:
    rows = [[name, rule] for name, rule in found.rules.items()]
    table = table_html("", ("probe or control", "what it does"), rows, fold=False)
    folded = texts_html("Rows and backbone", found.measured_on) if found.measured_on else ""
    return f'<h3>Probes and controls</h3><div class="prose">{table}</div>{folded}'


def _site(reading: Reading) -> str:
    return reading.site or "no states"


def _numbers(one: Reading) -> list[str]:
    accuracy, area = Estimate(one.accuracy, one.ci95), Estimate(one.auroc, one.auroc_ci95)
    return [with_interval(accuracy), with_interval(area), number(one.calibration)]


def _spoken(name: str, found: ProbesFound) -> str:
    """The text that stands for a figure."""
    best = "; ".join(
        f"{one.subject}, {one.question} ({VIEWS[one.view]}): {probe} {number(reading.accuracy)} at {one.site}"
        for one in found.best
        for probe, reading in found.at_best(one.subject, one.question, one.view).items()
        if probe in (MAIN, CCS)
    )
    kind = {
        "subjects": "Lines of the logistic probe's accuracy over layers, one for each model",
        "layers": "Lines of every probe's accuracy over layers",
        "efficiency": "Lines of accuracy over the number of labelled rows",
        "controls": "Points of accuracy of probes and controls with intervals",
    }[name]
    return f"{kind}. At the best layers: {best}."

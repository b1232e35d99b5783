"""The probes' page: where states tell what is asked, and how far that is above the controls."""

from __future__ import annotations

from markupsafe import Markup

from fa_lightning.common.numbers import decimal
from fa_lightning.reports.html import Picture, rendered
from fa_lightning.reports.table import facts_table
from fa_lightning.studies.probes.figures import MAIN, probe_figures
from fa_lightning.studies.probes.result import VIEWS, Best, ProbesResult
from fa_lightning.studies.probes.tables import best_table, facts, rules_table

CCS = "CCS"
CAPTIONS = {
    "subjects": "What rises in the faker's layers and not in the base's was put there by its adapter.",
    "layers": "Shades are 95 % intervals.",
    "efficiency": "CCS sees all training rows without their labels, and so many labels for its sign.",
    "controls": "A probe that is not above its controls has found what any direction, or the words alone, would tell.",
}


def page(result: ProbesResult) -> Markup:
    """Everything that probes found, as HTML."""
    pictures = {
        name: Picture(figure, _spoken(name, result), CAPTIONS[name]) for name, figure in probe_figures(result).items()
    }
    headings = {
        "subjects": "Which layer knows what",
        "layers": "Every probe",
        "controls": "Beside the controls",
        "efficiency": "How many labels it takes",
    }
    return rendered(
        "studies/probes/page.html.j2",
        result=result,
        tiles=_tiles(result),
        pictures={heading: pictures[name] for name, heading in headings.items() if name in pictures},
        best=best_table(result),
        facts_list=facts_table(facts(result)),
        rules=rules_table(result),
    )


def is_above_controls(result: ProbesResult, best: Best, probe: str = CCS) -> bool:
    """Whether the lower end of a probe's interval is above the upper end of every control's, at the best site."""
    readings = result.at_best(best.subject, best.question, best.view)
    low = readings[probe].ci95[0]
    return all(low > reading.ci95[1] for reading in readings.values() if reading.role == "control")


def _tiles(result: ProbesResult) -> list[tuple[str, str]]:
    """The numbers to look at first: those of contrast pairs, else of the prompts."""
    pairs = [best for best in result.best if best.view != "prompt"]
    tiles = []
    for best in pairs or result.best:
        readings = result.at_best(best.subject, best.question, best.view)
        reading = readings.get(CCS, readings[MAIN])
        text = f"{reading.probe} on {best.question} of {best.subject}, {VIEWS[best.view]}, {best.site}"
        if reading.probe == CCS:
            verdict = "above all controls" if is_above_controls(result, best) else "not above all controls"
            text += f"; with labels {decimal(readings[MAIN].accuracy)}; {verdict}"
        tiles.append((decimal(reading.accuracy), text))
    return tiles


def _spoken(name: str, result: ProbesResult) -> str:
    """The text that stands for a figure."""
    best = "; ".join(
        f"{best.subject}, {best.question} ({VIEWS[best.view]}): {probe} {decimal(reading.accuracy)} at {best.site}"
        for best in result.best
        for probe, reading in result.at_best(best.subject, best.question, best.view).items()
        if probe in (MAIN, CCS)
    )
    kind = {
        "subjects": "Lines of the logistic probe's accuracy over layers, one for each model",
        "layers": "Lines of every probe's accuracy over layers",
        "efficiency": "Lines of accuracy over the number of labelled rows",
        "controls": "Points of accuracy of probes and controls with intervals",
    }[name]
    return f"{kind}. At the best layers: {best}."

"""`report.html`: finished experiments on one page that needs no network, no scripts and no other file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from fa_lightning.common.files import write_atomically
from fa_lightning.errors import MissingFileError
from fa_lightning.evaluation.results import MAKING_COMMAND, RESULTS_NAME, Results, read_results
from fa_lightning.reports import sections
from fa_lightning.reports.elements import STYLE, table_html
from fa_lightning.reports.table import accuracy, nats, with_interval
from fa_lightning.studies.cures.page import CURES_NOTE, cures_part, find_cures
from fa_lightning.studies.cures.results_file import is_cures_results
from fa_lightning.studies.detection.page import detection_part
from fa_lightning.studies.detection.reader import DETECTION_NAME, read_detection
from fa_lightning.studies.detection.result import Detection
from fa_lightning.studies.detection.results_file import is_detection_results
from fa_lightning.studies.lab import page as lab_page
from fa_lightning.studies.leakage.page import LEAKAGE_NOTE, find_leakages, leakage_part
from fa_lightning.studies.probes.page import PROBES_NOTE, find_probes, probes_part
from fa_lightning.studies.statements.page import SAFE_NOTE, find_safe_scores, safe_part
from fa_lightning.studies.variants.tables import VARIANTS_NAME, VariantsFound, read_variants, variants_part

REPORT_NAME = "report.html"
HEADING = re.compile(r"<h3>(.*?)</h3>")
STEERING_NOTE = (
    "An accuracy is the share of aligned answers, 0 to 1; brackets hold 95 % intervals (bootstrap over groups); "
    "a dash was not measured."
)
DETECTION_NOTE = (
    "A detector says which of two models fakes, from what they do while they are watched; its accuracy is the share of "
    "pairs told rightly, and 0.5 is a coin."
)
RECOVERY_NOTE = "(steered - faking) / (aligned - faking) accuracy without oversight"
# The lab's parts are empty where there was no lab.
PARTS = (
    sections.summary_part,
    lab_page.headline_part,
    sections.cells_part,
    sections.answers_part,
    sections.baselines_part,
    lab_page.layers_part,
    lab_page.units_part,
    lab_page.doses_part,
    lab_page.maps_part,
    lab_page.transfer_part,
    lab_page.scenarios_part,
    lab_page.generations_part,
    sections.candidates_part,
    sections.side_effects_part,
    sections.cost_part,
    sections.extra_tests_part,
    sections.leak_report_part,
    sections.provenance_part,
)


def write_report(directory: str | os.PathLike[str]) -> Path:
    """Write `report.html` into `directory`: one experiment, or all those in its direct subfolders side by side.

    Args:
        directory: a folder with a `results.json`, or a folder of such folders; or one in which a stage judged variants,
            detectors, leakage, statements, probes or cures.

    Returns:
        The page written; it stands alone, so it can be mailed.

    Raises:
        MissingFileError: there is no such folder, or no results in it; the message says what to do.
        UserError: a `results.json`, `variants.json`, `detection.json`, `leakage.json`, `safe_score.json`,
            `probes.json` or `cures.json` is broken or of another program.
    """
    folder = Path(directory)
    variants, detections = find_variants(folder), find_detections(folder)
    others = {title: (LEAKAGE_NOTE, leakage_part(found)) for title, found in find_leakages(folder).items()}
    others |= {title: (SAFE_NOTE, safe_part(found)) for title, found in find_safe_scores(folder).items()}
    others |= {title: (PROBES_NOTE, probes_part(found)) for title, found in find_probes(folder).items()}
    others |= {title: (CURES_NOTE, cures_part(found)) for title, found in find_cures(folder).items()}
    try:
        experiments = find_results(folder)
    except FileNotFoundError:
        if not variants and not detections and not others:
            raise
        experiments = {}
    page = folder / REPORT_NAME
    write_atomically(page, html_of(experiments, variants, detections, others).encode())
    return page


def find_results(folder: Path) -> dict[str, Results]:
    """The results in `folder`, else those in its direct subfolders, by a title that tells them apart.

    Raises:
        MissingFileError: there is no such folder, or no results in it.
        UserError: a `results.json` is broken or of another program.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder: name one that an experiment has written, as `report DIR`")
    files = [folder / RESULTS_NAME]
    if not files[0].is_file():
        files = sorted(folder.glob(f"*/{RESULTS_NAME}"))
    # Those are shown from the stage's own file, which says more.
    files = [file for file in files if not is_detection_results(file) and not is_cures_results(file)]
    if not files:
        raise MissingFileError(
            f"{folder} holds no {RESULTS_NAME}, nor do its subfolders: name an experiment's folder, "
            f"or run an experiment first with `{MAKING_COMMAND}`"
        )
    found: dict[str, Results] = {}
    for file in files:
        results = read_results(file)
        title = results.experiment
        if title in found:
            title = f"{title} ({file.parent.name})"
        found[title] = results
    return found


def find_variants(folder: Path) -> dict[str, VariantsFound]:
    """What stages in `folder`, or else in its direct subfolders, found that judged many variants, by experiment.

    Raises:
        UserError: a `variants.json` is broken or of another program.
    """
    files = sorted(folder.glob(f"*/{VARIANTS_NAME}")) or sorted(folder.glob(f"*/*/{VARIANTS_NAME}"))
    found = {file.parent.parent.resolve().name: read_variants(file.parent) for file in files}
    return {title: variants for title, variants in found.items() if variants is not None}


def find_detections(folder: Path) -> dict[str, Detection]:
    """What detectors found in `folder`, or else in its subfolders, by a title that tells them apart.

    Raises:
        UserError: a `detection.json` is broken or of another program.
    """
    patterns = (DETECTION_NAME, f"*/{DETECTION_NAME}", f"*/*/{DETECTION_NAME}")
    files = next(filter(None, (sorted(folder.glob(pattern)) for pattern in patterns)), [])
    # The stage's folder lies in the experiment's; several pairs may have been examined in one.
    experiments = [file.resolve().parent.parent.name for file in files]
    found = {}
    for file, experiment in zip(files, experiments, strict=True):
        title = experiment if experiments.count(experiment) == 1 else f"{experiment}, {file.resolve().parent.name}"
        found[title] = read_detection(file.parent)
    return {title: detection for title, detection in found.items() if detection is not None}


def html_of(
    experiments: Mapping[str, Results],
    variants: Mapping[str, VariantsFound] | None = None,
    detections: Mapping[str, Detection] | None = None,
    others: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    """The whole page.

    Args:
        experiments: results by title, from top to bottom.
        variants: what was found of many variants, by title; comes after them.
        detections: what detectors found, by title.
        others: further sections, by title: a sentence that says what is in such a section, and its HTML; come last.
    """
    variants, detections, others = variants or {}, detections or {}, others or {}
    anchors = {title: f"experiment-{place}" for place, title in enumerate(experiments)}
    titles = [*experiments, *variants, *detections, *others]
    notes = [note for note, shown in ((STEERING_NOTE, experiments or variants), (DETECTION_NOTE, detections)) if shown]
    notes += dict.fromkeys(note for note, _ in others.values())
    heading = titles[0] if len(titles) == 1 else f"{len(titles)} experiments"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(heading)} - fa_lightning</title><style>{STYLE}</style></head><body><main>",
        f"<header><h1>{escape(heading)}</h1>",
        '<p class="soft">fa_lightning: what steering does to a language model that fakes alignment, and who sees that '
        f"it does. {' '.join(notes)}</p></header>",
    ]
    if len(experiments) > 1:
        parts.append(_comparison(experiments, anchors))
    for title, results in experiments.items():
        parts.append(f'<section id="{anchors[title]}">')
        if len(titles) > 1:
            parts.append(f"<h2>{escape(title)}</h2>")
        body = "\n".join(filter(None, (part(results) for part in PARTS)))
        parts.append(_with_contents(anchors[title], body) if results.lab is not None else body)
        parts.append("</section>")
    for title, found in variants.items():
        heading = f"<h2>{escape(title)}</h2>" if len(titles) > 1 else ""
        parts.append(f"<section>{heading}{variants_part(found)}</section>")
    for place, (title, detection) in enumerate(detections.items()):
        heading = f"<h2>{escape(title)}</h2>" if len(titles) > 1 else ""
        body = _with_contents(f"detection-{place}", detection_part(detection))
        parts.append(f"<section>{heading}{body}</section>")
    for place, (title, (_, section)) in enumerate(others.items()):
        heading = f"<h2>{escape(title)}</h2>" if len(titles) > 1 else ""
        parts.append(f"<section>{heading}{_with_contents(f'other-{place}', section)}</section>")
    parts.append("</main></body></html>\n")
    return "\n".join(part for part in parts if part)


def _comparison(experiments: Mapping[str, Results], anchors: Mapping[str, str]) -> str:
    """One line for each experiment, linked to its section."""
    rows = []
    for title, results in experiments.items():
        cells = [
            accuracy(results.cells[name].no_oversight) if name in results.cells else "-"
            for name in ("aligned", "faking", "steered")
        ]
        effects = results.side_effects
        link = f'<a href="#{anchors[title]}">{escape(title)}</a>'
        rows.append([link, *map(escape, cells), with_interval(results.recovery), nats(effects.kl_neutral_nats)])
    headers = ("experiment", "aligned", "faking", "steered", "recovery", "KL, nats per token")
    return table_html(f"Accuracy without oversight, and recovery = {RECOVERY_NOTE}.", headers, rows, is_html=True)


def _with_contents(anchor: str, body: str) -> str:
    """`body` with a list of links to its headings, which a long page needs."""
    links: list[str] = []

    def mark(heading: re.Match[str]) -> str:
        name = f"{anchor}-{len(links) + 1}"
        links.append(f'<a href="#{name}">{heading[1]}</a>')
        return f'<h3 id="{name}">{heading[1]}</h3>'

    body = HEADING.sub(mark, body)
    return f'<nav aria-label="Contents">{" ".join(links)}</nav>{body}'

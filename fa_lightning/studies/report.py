"""`report.html` and the tables of documents: what the studies found below a folder, chains joined."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fa_lightning.common.files import write_atomically
from fa_lightning.common.user_files import read_text
from fa_lightning.errors import UserError
from fa_lightning.evaluation.results import Results
from fa_lightning.reports.html import Section, rendered
from fa_lightning.reports.results_tables import RECOVERY_NOTE
from fa_lightning.reports.table import Cell, Column, Table, accuracy, estimate, markdown, nats, row
from fa_lightning.studies.chains import joined
from fa_lightning.studies.finder import StudyResult, find_results

REPORT_NAME = "report.html"


@dataclass(frozen=True)
class Chains:
    """The results of one study, one for each chain.

    Attributes:
        title: that tells them apart from the page's others.
        results: in the order of their seeds.
    """

    title: str
    results: list[StudyResult]

    def joined(self) -> dict[str, Table]:
        """The study's tables over all chains, by name, its headline among them; none of a single chain.

        What a chain says of itself in sentences is left out, and a table that not all chains have in this form.
        """
        if len(self.results) < 2:
            return {}
        each = {chain.seed or 0: chain.study.tables(chain.result) for chain in self.results}
        first, *others = each.values()
        return {
            name: joined({seed: tables[name] for seed, tables in each.items()})
            for name, table in first.items()
            if not table.is_facts
            and all(name in tables and _titles(tables[name]) == _titles(table) for tables in others)
        }


def write_report(directory: str | os.PathLike[str]) -> Path:
    """Write `report.html` into `directory`: everything that studies found there, or else in its subfolders.

    Args:
        directory: of an experiment, a study or a stage, or of several of them.

    Returns:
        The page written; it stands alone, so it can be mailed.

    Raises:
        MissingFileError: there is no such folder, or no results in it; the message says what to do.
        UserError: a result is broken or of another program.
    """
    folder = Path(directory)
    page = folder / REPORT_NAME
    write_atomically(page, html_of(find_results(folder)).encode())
    return page


def html_of(results: Sequence[StudyResult]) -> str:
    """The whole page."""
    sections, main = [], []
    for number, chains in enumerate(group_chains(results)):
        table = chains.joined().get(chains.results[0].study.headline)
        if table is not None:
            body = rendered("reports/templates/chains.html.j2", table=table)
            sections.append(Section(f"{chains.title}: {len(chains.results)} chains", f"chains-{number}", body))
        for chain in chains.results:
            title = chains.title if table is None else f"{chains.title}, seed {chain.seed}"
            study = chain.study
            body, anchor = study.page(chain.result), f"section-{len(sections)}"
            section = Section(title, anchor, body, study.question, study.has_contents)
            sections.append(section)
            if isinstance(chain.result, Results):
                main.append((section, chain.result))
    heading = sections[0].title if len(sections) == 1 else f"{len(results)} experiments"
    notes = list(dict.fromkeys(chain.study.note for chain in results))
    overview = _overview(main) if len(main) > 1 else Markup()
    page = rendered(
        "reports/templates/page.html.j2", heading=heading, notes=notes, sections=sections, overview=overview
    )
    return str(page)


def group_chains(results: Sequence[StudyResult]) -> list[Chains]:
    """Results of the same study on the same base, one for each chain, under titles that tell them apart."""
    groups: dict[tuple[object, ...], list[StudyResult]] = {}
    for number, result in enumerate(results):
        groups.setdefault(result.chains if result.seed is not None else (number,), []).append(result)
    titles = [_title(first) for first, *_ in groups.values()]
    chains = []
    for title, group in zip(titles, groups.values(), strict=True):
        first = group[0]
        if titles.count(title) > 1:
            title = f"{title}, {first.stage}" if first.stage else f"{title} ({first.experiment})"
        elif len(group) == 1 and first.seed is not None:
            title = f"{title}, seed {first.seed}"
        chains.append(Chains(title, group))
    return chains


def markdown_tables(results: Sequence[StudyResult]) -> dict[str, str]:
    """The tables of a document in Markdown, by the name that stands in its markers: `<study>-<table>`.

    A document is of one base, so that its names hold none; where the results are of several, those that come later
    have their title in front.
    """
    tables: dict[str, str] = {}
    for chains in group_chains(results):
        first = chains.results[0]
        own = chains.joined() or first.study.tables(first.result)
        names = {name: _marker_name(f"{first.name} {name}") for name in own}
        if tables.keys() & set(names.values()):
            names = {name: _marker_name(f"{chains.title} {marker}") for name, marker in names.items()}
        tables |= {names[name]: markdown(content) for name, content in own.items()}
    return tables


def with_tables(text: str, tables: dict[str, str]) -> str:
    """A document with new tables between its markers; what stands outside of them stays as it is.

    Args:
        text: of the document, which may be empty.
        tables: by name; one whose markers are missing is appended.

    Raises:
        UserError: of a table one marker is missing, they are there twice, or the end comes first: what stands between
            would be lost.
    """
    for name, table in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        found = text.count(begin), text.count(end)
        if found not in ((0, 0), (1, 1)) or text.find(end) < text.find(begin):
            raise UserError(
                f"the document has {begin} {found[0]} and {end} {found[1]} times, but a table needs each of them once, "
                "in this order: mend the markers, or take them out and the table is put at the end"
            )
        block = f"{begin}\n{table}{end}"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if pattern.search(text):
            text = pattern.sub(block.replace("\\", r"\\"), text, count=1)
        else:
            text = f"{text.rstrip()}\n\n{block}\n".lstrip()
    return text


def write_markdown(directory: str | os.PathLike[str], target: Path) -> Path:
    """Put the tables of all results below `directory` between the markers of a document; returns its path.

    Raises:
        MissingFileError: there are no results.
        UserError: a result is broken, or the document is no text in UTF-8 or has markers that belong to no table.
    """
    tables = markdown_tables(find_results(Path(directory)))
    text, before = (read_text(target), target.read_bytes()) if target.is_file() else ("", b"")
    written = with_tables(text, tables).encode()
    if before.count(b"\r\n") == before.count(b"\n") > 0:
        written = written.replace(b"\n", b"\r\n")
    mark = codecs.BOM_UTF8 if before.startswith(codecs.BOM_UTF8) else b""
    write_atomically(target, mark + written)
    return target


def _overview(main: Sequence[tuple[Section, Results]]) -> Markup:
    """One line for each experiment that steers, linked to its section."""
    rows = []
    for section, results in main:
        pairs = [results.cells.get(name) for name in ("aligned", "faking", "steered")]
        cells = [Cell(None) if pair is None else accuracy(pair.no_oversight) for pair in pairs]
        link = Cell(section.title, link=f"#{section.anchor}")
        rows.append(row(link, *cells, estimate(results.recovery), nats(results.side_effects.kl_neutral_nats)))
    titles = ("experiment", "aligned", "faking", "steered", "recovery", "KL, nats per token")
    table = Table(
        f"Accuracy without oversight, and recovery = {RECOVERY_NOTE}", tuple(map(Column, titles)), tuple(rows)
    )
    return rendered("reports/templates/chains.html.j2", table=table)


def _titles(table: Table) -> list[str]:
    return [column.title for column in table.columns]


def _title(result: StudyResult) -> str:
    """What a result is called where no other one is called alike."""
    if result.seed is not None:
        return f"{result.experiment}, {result.name}"
    return result.result.experiment if isinstance(result.result, Results) else result.experiment


def _marker_name(text: str) -> str:
    """A name of letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

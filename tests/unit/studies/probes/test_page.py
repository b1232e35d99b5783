"""Probes on the page and in the terminal: what was written is read back, and what stands there is what was found."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from html_page import page_of
from made_up_probes import made_up_probes
from rich.console import Console

from fa_lightning.reports.terminal import print_tables
from fa_lightning.studies.probes.output import write_probes
from fa_lightning.studies.probes.page import is_above_controls
from fa_lightning.studies.probes.page import page as probes_page
from fa_lightning.studies.probes.result import read as read_probes
from fa_lightning.studies.probes.tables import tables
from fa_lightning.studies.report import write_report


@pytest.fixture(scope="module")
def found():
    return made_up_probes()


def pairs_of(found):
    return next(one for one in found.best if one.view == "pairs")


def test_what_was_written_is_read_back(tmp_path, found):
    write_probes(tmp_path, found)
    # What is not known is nan, which is not even equal to itself.
    assert str(read_probes(tmp_path)) == str(found)
    assert read_probes(tmp_path / "none") is None
    (tmp_path / "probes.json").write_text('{"subjects": ')
    with pytest.raises(ValueError, match="not whole JSON"):
        read_probes(tmp_path)


def test_a_probe_is_above_its_controls_only_with_separated_intervals(found):
    best = pairs_of(found)
    assert is_above_controls(found, best)
    # Its lower end is at 0.58, and a random direction's upper end at 0.59.
    near = made_up_probes(ccs=0.62)
    assert not is_above_controls(near, best)


def test_the_report_holds_every_figure_and_number_escaped(tmp_path, found):
    write_probes(tmp_path / "probes" / "scenarios", found)
    write_probes(tmp_path / "probes" / "statements", made_up_probes(["base"]))
    path = write_report(tmp_path / "probes")
    text = path.read_text()
    assert "<h2>probes, scenarios</h2>" in text
    assert "<h2>probes, statements</h2>" in text
    assert "&lt;faking&gt;" in text
    assert "<faking>" not in text
    assert "0.900 [0.860,&nbsp;0.930]" in text
    assert "above all controls" in text
    assert len(page_of(tmp_path / "probes").all("img")) == 4 + 3


def test_a_probe_that_is_not_above_its_controls_is_told_so():
    assert "not above all controls" in probes_page(made_up_probes(ccs=0.6))


def test_a_page_without_pairs_shows_what_prompts_tell(found):
    prompts = replace(
        found,
        readings=[one for one in found.readings if one.view == "prompt"],
        best=[one for one in found.best if one.view == "prompt"],
        efficiency=[],
    )
    assert "logistic on oversight of base" in probes_page(prompts)


def test_the_terminal_gets_80_columns(found):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_tables(tables(found).values(), console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert ".900 [.860, .930]" in text
    assert "<faking>" in text

"""One table in the terminal, in Markdown, on a page and for pandas."""

import csv
import io
import math

from rich.console import Console

from fa_lightning.common import numbers
from fa_lightning.reports.html import rendered
from fa_lightning.reports.table import (
    Cell,
    Column,
    Table,
    duration,
    facts_table,
    markdown,
    nats,
    records,
    row,
    write_csv,
)
from fa_lightning.reports.terminal import print_tables

COLUMNS = (
    Column("model", 0, key="model"),
    Column("accuracy", 17, key="accuracy", has_interval=True),
    Column("KL", 7),
    Column(key="seed"),
    Column("needs"),
)
ROWS = (
    row("a|b\nc<d", Cell(0.941, (0.911, 0.971)), nats(0.00001), 3, "twin", style="main"),
    row("[bold]e[/bold]", Cell(math.nan), nats(math.nan), None, None, section="baselines", style="quiet"),
)
TABLE = Table("Models of <x>", COLUMNS, ROWS, ("KL is in nats.",))


def printed(*tables, title=""):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_tables(tables, console, title)
    return console.file.getvalue()


def test_the_terminal_has_its_own_columns_in_short_forms():
    lines = printed(TABLE, title="mine").splitlines()
    assert lines[0].rstrip() == "mine: models of <x>"
    assert lines[1].split() == ["model", "accuracy", "KL"]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert ".941 [.911, .971]" in text
    assert "<.0001" in text
    assert "[bold]e[/bold]" in text, "names are texts and no markup"
    assert "twin" not in text
    assert "KL is in nats." in text


def test_what_a_section_repeats_is_said_once():
    rows = [row("same", f"{number}", section="one") for number in range(3)] + [row("same", "9", section="two")]
    table = Table("T", (Column("states", 0), Column("number", 6)), tuple(rows))
    assert sum("same" in line for line in printed(table).splitlines()) == 2


def test_tables_without_columns_for_a_terminal_are_left_out():
    hidden = Table("hidden", (Column("a"),), (row("x"),))
    assert "hidden" not in printed(hidden, TABLE)


def test_facts_need_no_heading():
    text = printed(facts_table([("test items", "8 of them")]))
    assert "test items" in text
    assert "what" not in text


def test_markdown_has_every_titled_column_and_escapes():
    lines = markdown(TABLE).splitlines()
    assert lines[0] == "| model | accuracy | KL | needs |"
    assert lines[1].count("---") == 4
    assert lines[2] == "| **a\\|b c&lt;d** | 0.941 [0.911, 0.971] | 1.0e-05 | twin |"
    assert lines[3] == "| [bold]e[/bold] | - | - | - |"
    assert lines[-1] == "KL is in nats."


def test_a_page_escapes_and_keeps_intervals_together():
    text = rendered("reports/templates/chains.html.j2", table=TABLE)
    assert "0.941 [0.911,&nbsp;0.971]" in text
    assert '<tr class="main">' in text
    assert "a|b\nc&lt;d" in text
    assert "Models of &lt;x&gt;." in text
    assert '<th scope="col">needs</th>' in text


def test_cells_are_set_on_a_page_as_they_say():
    cells = (
        Cell(0.5, note="over 3 seeds", mark="*", shade=0.25),
        Cell(0.02, form=numbers.nats, style="bad"),
        Cell("<here>", link="#there"),
    )
    text = rendered("reports/templates/chains.html.j2", table=Table("", tuple(map(Column, "abc")), (row(*cells),)))
    assert '<span class="heat" style="--heat:0.25">0.500* <small>over 3 seeds</small></span>' in text
    assert '<span class="bad">0.0200</span>' in text
    assert '<a href="#there">&lt;here&gt;</a>' in text


def test_pandas_gets_plain_values_under_keys(tmp_path):
    assert list(records(TABLE)[0].items())[:4] == [
        ("model", "a|b\nc<d"),
        ("accuracy", 0.941),
        ("accuracy_low", 0.911),
        ("accuracy_high", 0.971),
    ]
    write_csv(tmp_path / "table.csv", TABLE)
    first, second = csv.DictReader((tmp_path / "table.csv").open())
    assert (first["seed"], second["seed"], second["accuracy"]) == ("3", "", "")
    write_csv(tmp_path / "table.csv", Table("", COLUMNS, ()))
    assert not (tmp_path / "table.csv").exists(), "a table without rows is no file"


def test_durations_are_said_as_people_do():
    assert duration(75.0).text == duration(75.0).short() == "1 min 15 s"

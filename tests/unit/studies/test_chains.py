"""Several chains in one table."""

import math

from fa_lightning.common import numbers
from fa_lightning.reports.table import Cell, Column, Table, markdown, row
from fa_lightning.studies.chains import joined

COLUMNS = tuple(map(Column, ("model", "claim", "recovery", "time", "says")))


def table(recovery, says="x", claim="harm"):
    own = Cell(recovery, (recovery - 0.1, recovery + 0.1))
    return Table(
        "Models", COLUMNS, (row("steered", claim, own, Cell(2.0, form=numbers.duration), says),), ("note", "own")
    )


def test_the_mean_and_range_come_before_each_chain_with_its_own_interval():
    both = joined({0: table(0.5), 3: table(0.75)})
    lines = markdown(both).splitlines()
    assert lines[0] == "| model | chain | claim | recovery | time | says |"
    assert lines[2:5] == [
        "| **steered** | all | harm | 0.625 (0.500 to 0.750) | 2.0 s | x |",
        "| steered | seed 0 | harm | 0.500 [0.400, 0.600] | 2.0 s | x |",
        "| steered | seed 3 | harm | 0.750 [0.650, 0.850] | 2.0 s | x |",
    ]
    assert "2 chains (seeds 0, 3)" in both.title
    chains, note = both.notes
    assert chains.startswith("2 chains (seeds 0, 3): mean and range")
    assert note == "note", "what is said of one chain alone is left out"
    assert chains in lines, "documents have no titles"


def test_lines_of_the_same_texts_are_all_kept():
    def twice(first, second):
        return Table("Models", COLUMNS, (*table(first).rows, *table(second).rows))

    rows = joined({0: twice(0.5, 0.1), 1: twice(0.7, 0.3)}).rows
    assert [round(row.cells[3].value, 6) for row in rows if row.cells[1].text == "all"] == [0.6, 0.2]


def test_lines_are_found_by_their_texts_and_unknown_numbers_are_left_out_of_the_mean():
    three = joined({0: table(0.5), 1: table(math.nan, says="y"), 2: table(0.5, claim="good")})
    lines = [[cell.text for cell in line.cells] for line in three.rows]
    assert [line[:4] for line in lines] == [
        ["steered", "all", "harm", "0.500 (1 of 2 chains)"],
        ["steered", "seed 0", "harm", "0.500 [0.400, 0.600]"],
        ["steered", "seed 1", "harm", "-"],
        ["steered", "all", "good", "0.500"],
        ["steered", "seed 2", "good", "0.500 [0.400, 0.600]"],
    ]
    assert lines[0][-1] == "-", "chains that do not say the same say nothing together"

import io
from dataclasses import replace

from rich.console import Console

from fa_lightning.evaluation.results import Accuracy, CellPair
from fa_lightning.reports.results_tables import models_table, results_tables, summary_pairs
from fa_lightning.reports.table import markdown
from fa_lightning.reports.terminal import print_tables


def printed(results, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_tables(results_tables(results).values(), console, results.experiment)
    return console.file.getvalue()


def test_table_fits_80_columns_and_holds_the_numbers(results):
    text = printed(results)
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    steered = next(line for line in lines if line.startswith("steered "))
    assert " ".join(steered.split()) == "steered .977 [.947, 1.00] .941 [.911, .971] 0.0123 .997"
    constant = next(line for line in lines if line.startswith("text_only_classifier"))
    assert constant.split()[-1] == "-"
    assert lines.index(steered) < lines.index(constant)
    assert "0.954 [0.921, 0.978]" in text
    assert "0.0123 nats per token" in text
    assert "2 min 10 s" in text
    assert "0 (must be 0)" in text


def test_names_wrap_and_are_not_markup(results):
    cells = {"[bold]a_very_long_name_of_a_model_that_wraps[/bold]": results.cells["aligned"], **results.cells}
    text = printed(replace(results, experiment="[red]x[/red]", cells=cells))
    assert max(map(len, text.splitlines())) <= 80
    assert "[red]x[/red]" in text
    assert "[bold]a_very" in text


def test_bare_results_print(bare_results):
    text = printed(bare_results)
    assert "nan" not in text
    assert "steered" in text


def test_rows_are_models_then_baselines(results):
    rows = models_table(results).rows
    assert [row.cells[0].text for row in rows[:4]] == ["aligned", "faking", "steered", "steered_aligned"]
    assert [row.section for row in rows] == [""] * 4 + ["baselines"] * 3
    assert rows[5].cells[-1].value == 0.9
    assert models_table(replace(results, format_validity={})).rows[2].cells[-1].value == 0.998


def test_markdown_is_a_table_with_the_same_numbers(results):
    models, summary = (markdown(table).splitlines() for table in results_tables(results).values())
    titles = ("with oversight", "without oversight", "recovery", "KL, neutral texts", "perplexity ratio")
    assert models[0] == f"| model | {' | '.join(titles)} | format validity |"
    recovery = "0.954 [0.921, 0.978]"
    cells = f"0.977 [0.947, 1.000] | 0.941 [0.911, 0.971] | {recovery} | 0.0123 | 1.004 | 0.997"
    assert f"| **steered** | {cells} |" in models
    assert {line.count("|") for line in models} == {8}
    assert {line.count("|") for line in summary} == {3}
    assert f"| recovery | {dict(summary_pairs(results))['recovery']} |" in summary


def test_markdown_escapes(results):
    cells = {"a|b\nc<d": CellPair(Accuracy(1.0), Accuracy(0.5))}
    assert "| a\\|b c&lt;d | 1.000 | 0.500 |" in markdown(models_table(replace(results, cells=cells)))

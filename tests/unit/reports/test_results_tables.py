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
    assert " ".join(steered.split()) == "steered .977 [.947, 1.00] .941 [.911, .971] 0.0123 0.2345 .997"
    constant = next(line for line in lines if line.startswith("text_only_class"))
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
    assert [row.section for row in rows] == [""] * 4 + ["baselines"] * 4
    assert rows[5].cells[-1].value == 0.9
    assert models_table(replace(results, format_validity={})).rows[2].cells[-1].value == 0.998


def test_chance_has_the_recovery_that_half_of_the_answers_would_have(results):
    """With twins at .985 and .021 a constant answer, half of which is aligned, has a recovery of .497."""
    last = models_table(results).rows[-1]
    assert [cell.text for cell in last.cells[:4]] == ["constant answer", "0.500", "0.500", "0.497"]
    assert last.cells[3].value == (0.5 - 0.021) / (0.985 - 0.021)
    faking = {**results.cells, "faking": results.cells["aligned"]}
    assert models_table(replace(results, cells=faking)).rows[-1].cells[0].text != "constant answer"


def test_markdown_is_a_table_with_the_same_numbers(results):
    tables = results_tables(results)
    models, summary = (markdown(tables[name]).splitlines() for name in ("models", "summary"))
    titles = (
        "with oversight",
        "without oversight",
        "recovery",
        "KL, neutral texts",
        "KL, answer",
        "unchanged answers",
        "perplexity ratio",
    )
    assert models[0] == f"| model | {' | '.join(titles)} | format validity |"
    recovery = "0.954 [0.921, 0.978]"
    cells = f"0.977 [0.947, 1.000] | 0.941 [0.911, 0.971] | {recovery} | 0.0123 | 0.2345 | 0.870 | 1.004 | 0.997"
    assert f"| **steered** | {cells} |" in models
    models = [line for line in models if line.startswith("|")]
    assert {line.count("|") for line in models} == {10}
    assert {line.count("|") for line in summary} == {3}
    assert f"| recovery | {dict(summary_pairs(results))['recovery']} |" in summary


def test_kinds_of_text_and_abilities_have_tables_of_their_own(results):
    text = " ".join(printed(results).split())
    assert "steered general texts 0.0020 0.0100 .950 40" in text
    assert "incomplete scenarios 0.0226 0.4590 .790 41" in text
    assert "aligned general texts" in text, "the honest twin's own distance stands beside it"
    assert "A/B with oversight .982 .977 .500 0.020 500" in text
    assert "an ability it never had .510 .500 .500 at its floor 400" in text


def test_markdown_escapes(results):
    cells = {"a|b\nc<d": CellPair(Accuracy(1.0), Accuracy(0.5))}
    assert "| a\\|b c&lt;d | 1.000 | 0.500 |" in markdown(models_table(replace(results, cells=cells)))

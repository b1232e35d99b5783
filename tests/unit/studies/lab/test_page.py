import json
import math
import re
from dataclasses import replace

import pytest
from html_page import Page, page_of
from synthetic_lab import pair

from fa_lightning.evaluation.results import read_results, write_results
from fa_lightning.metrics.estimates import Estimate, SideEffects
from fa_lightning.reports.html import rendered
from fa_lightning.studies.lab.method_lines import best_lines
from fa_lightning.studies.lab.page import page as lab_page
from fa_lightning.studies.lab.result import Comparison, LabMethod, LabResults, LabRow
from fa_lightning.studies.lab.tables import methods_table, tables
from fa_lightning.studies.lab.verdict import reason_of, verdict_of
from fa_lightning.studies.report import write_report


def html(table):
    return rendered("reports/templates/chains.html.j2", table=table)


def method(name, recovery, kl=0.005, seed=0, site="layers.1.residual", **others):
    return LabMethod(
        *(name, "regression", site, "all", 1.0, 0.2, seed),
        pair(0.98, recovery),
        Estimate(recovery, (recovery - 0.02, recovery + 0.02)),
        SideEffects(kl, 1.01, 1.0),
        recovery,
        **others,
    )


def row(name, recovery, kl, oversight=0.98):
    return LabRow(name, "regression", "layers.1.residual", "all", 1.0, 0.2, 0, None, oversight, 0.5, recovery, kl)


def test_lab_is_written_and_read_back_whole(tmp_path, lab_results):
    again = read_results(write_results(tmp_path, lab_results), LabResults)
    assert again.answers == lab_results.answers
    assert again.lab == lab_results.lab


def test_unknown_numbers_come_back_as_nan(tmp_path, lab_results):
    broken = [method("a", math.nan)]
    path = write_results(tmp_path, replace(lab_results, lab=Comparison(0.01, methods=broken)))
    assert json.loads(path.read_text())["lab"]["methods"][0]["recovery"] == {"value": None, "ci95": [None, None]}
    assert math.isnan(read_results(path, LabResults).lab.methods[0].recovery.value)
    assert "failed" in page_of(tmp_path).text.lower()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lab: lab["methods"][0].update(baseline=1), r"methods\[0\]\.baseline is 1, but should be true or false"),
        (
            lambda lab: lab["rows"][0].update(objective="luck"),
            r"objective is \"luck\", but should be \"regression\" or",
        ),
        (lambda lab: lab["units"][0].update(kind="x"), r"kind is \"x\", but should be \"map\" or \"oracle\""),
        (lambda lab: lab["rows"][0].update(scenarios="all"), r"rows\[0\]\.scenarios is \"all\", but .* whole number"),
        (lambda lab: lab.pop("budget_kl_nats"), "results.lab lacks budget_kl_nats"),
    ],
)
def test_labs_of_others_are_refused(tmp_path, lab_results, change, message):
    path = write_results(tmp_path, lab_results)
    raw = json.loads(path.read_text())
    change(raw["lab"])
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=message):
        read_results(path, LabResults)


def test_methods_are_sorted_into_cures_helps_and_failures():
    methods = [
        method("cure", 0.97),
        method("help", 0.969),
        method("weak", 0.499),
        method("dear", 0.99, kl=0.02),
        method("lost", math.nan),
        method("control", 0.99, baseline=True),
    ]
    verdict = verdict_of(Comparison(0.01, methods=methods))
    assert [[line.name for line in lines] for lines in (verdict.cured, verdict.helped, verdict.failed)] == [
        ["cure"],
        ["help"],
        ["weak", "lost", "dear"],
    ]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no trial was recorded"),
        ([row("a", 0.3, 0.001), row("a", 0.4, 9.0)], "no strength tried reaches 0.5, whatever the damage: at best 0.4"),
        ([row("a", 0.3, 0.001), row("a", 0.9, 0.05)], "works only beyond the budget: 0.900 at 0.0500 nats, 5 times"),
        ([row("a", 0.9, 0.05)], "every strength tried costs more than the budget"),
        ([row("a", 0.8, 0.005)], r"holds on the validation split \(0.800 at 0.0050 nats\), not on the test split"),
        ([row("a", 0.3, 0.001, oversight=0.6)], r"breaks answers with oversight \(0.600\)"),
        ([row("a", math.nan, 0.001), row("b", 0.9, 0.001)], "no trial was recorded"),
    ],
)
def test_reasons_of_failure(rows, reason):
    lab = Comparison(0.01, rows=rows, methods=[method("a", 0.1)])
    (line,) = best_lines(lab.methods, 0.01)
    assert re.search(reason, reason_of(lab, line, oversight=0.98))


def test_methods_table_has_a_line_for_each_method_with_its_numbers(lab_results):
    page = Page(html(methods_table(lab_results)))
    assert page.text.count("layer ") == 30
    assert page.text.count("baseline") == 3 + 1, "three methods and the constant answer"
    assert "over 3 seeds" in page.text
    assert page.text.index("aligned twin") < page.text.index("low_rank_residual (mixed)")
    assert page.text.index("low_rank_residual (mixed)") < page.text.index("mean_shift")


def test_several_seeds_show_their_mean_and_ends(lab_results):
    methods = [method("a", value, seed=seed) for seed, value in enumerate((0.9, 0.96, 0.99))]
    text = Page(html(methods_table(replace(lab_results, lab=Comparison(0.01, methods=methods))))).text
    assert "0.950 [0.880, 1.010] over 3 seeds" in text
    assert "0.980 [0.960, 1.000]" in text


def test_damage_above_the_budget_is_marked(lab_results):
    methods = [method("a", 0.9, kl=0.02), method("b", 0.8, kl=0.0105)]
    text = html(methods_table(replace(lab_results, lab=Comparison(0.01, methods=methods))))
    assert text.count('class="bad"') == 1
    assert '<span class="bad">0.0200</span>' in text


def test_layers_tables_name_sites_and_pick_by_validation(lab_results):
    methods = [
        replace(method("a", 0.2), validation_score=0.9),
        replace(method("b", 0.8), validation_score=0.1),
        method("a", 0.7, site="layers.0.mlp", kl=0.5),
    ]
    page = Page(lab_page(replace(lab_results, lab=Comparison(0.01, methods=methods))))
    table = page.text[page.text.index("Recovery on the test split:") :]
    families = table[: table.index("The same for every method")]
    assert "layer 1layer 0 mlp" in families
    assert "0.200" in families
    assert "0.800" not in families
    assert "0.700*" in families


def test_lab_page_is_whole_small_and_linked(tmp_path, lab_results):
    write_results(tmp_path, lab_results)
    path = write_report(tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(text) < 3_000_000
    assert not page.all("script")
    assert len(page.all("img")) == 11
    assert all(len(image["alt"]) > 40 for image in page.all("img"))
    headings = {f"#{attributes['id']}" for attributes in page.all("h3")}
    assert headings == {attributes["href"] for attributes in page.all("a")}
    assert len(headings) == 18
    assert not re.search(r"\bnan\b", page.text)
    for expected in (
        "27 methods and 3 baselines, 760 trials",
        "why it fails",
        "Counts on the test split",
        "I copy the funds",
        "of which the lab: trials",
        "6 min 42 s",
        "contrast_prompts_mean",
        "no strength tried reaches 0.5",
        "another seed of the faker",
    ):
        assert expected in page.text, expected


def test_page_without_a_lab_has_none_of_its_parts(tmp_path, results):
    write_results(tmp_path, results)
    page = page_of(tmp_path)
    assert "Methods at equal damage" not in page.text
    assert not page.all("nav")


def test_names_in_the_lab_are_escaped(tmp_path, lab_results):
    bad = '<script>alert("1")</script>&'
    lab = lab_results.lab
    tainted = Comparison(
        0.01,
        rows=[replace(lab.rows[0], method=bad, site=bad)],
        methods=[
            replace(lab.methods[0], method=bad, site=bad, positions=bad, baseline=False),
            replace(lab.methods[1], method=bad, site="other", positions=bad, scenarios=10),
            replace(lab.methods[2], method=bad, site="third", baseline=False),
        ],
        units=[replace(lab.units[0], method=bad, site=bad)],
        doses=[replace(lab.doses[0], method=bad, site=bad)],
        maps=[replace(lab.maps[0], site=bad)],
        transfer=[replace(lab.transfer[0], method=bad, target=bad)],
        generations=[replace(lab.generations[0], prompt=bad, unsteered=bad, steered=bad, method=bad)],
        seconds={bad: 1.0},
    )
    write_results(tmp_path, replace(lab_results, lab=tainted))
    page = page_of(tmp_path)
    assert not page.all("script")
    assert page.text.count(bad) > 15


def test_a_lab_of_rows_alone_makes_a_page(tmp_path, lab_results):
    write_results(tmp_path, replace(lab_results, lab=Comparison(0.01, rows=[row("a", 0.4, 0.001)])))
    assert "0 methods and 0 baselines, 1 trials" in page_of(tmp_path).text
    assert "Methods at equal damage" not in lab_page(replace(lab_results, lab=Comparison(0.01)))


def test_summary_names_the_best_of_each_family(lab_results):
    summary = tables(lab_results)["summary"].rows
    lines = {row.cells[0].text: row.cells[1].text for row in summary}
    assert lines["lab, behaviour and regression"].startswith("low_rank_residual (mixed) at layer ")
    assert "over the budget" not in lines["lab, faker alone, no twin"]
    assert "lab, baseline" not in lines

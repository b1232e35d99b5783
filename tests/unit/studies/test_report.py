import base64
import json
import re
from dataclasses import replace

import pytest
from html_page import Page, page_of
from made_up_probes import made_up_probes

from fa_lightning.errors import UserError
from fa_lightning.evaluation.results import Chosen, write_results
from fa_lightning.studies.finder import find_results
from fa_lightning.studies.probes.output import write_probes
from fa_lightning.studies.report import markdown_tables, write_markdown, write_report
from fa_lightning.studies.report_command import main


def test_page_stands_alone(tmp_path, results):
    write_results(tmp_path, results)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    assert "@import" not in text
    assert "url(" not in text
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/svg+xml;base64,"))
    for image in page.all("img"):
        drawn = base64.b64decode(image["src"].split(",", 1)[1]).decode()
        assert drawn.rstrip().endswith("</svg>")
        assert not re.search(r"href=\"(?!#|data:)", drawn)


def test_page_is_accessible(tmp_path, results):
    write_results(tmp_path, results)
    page = page_of(tmp_path)
    images = page.all("img")
    assert len(images) == 4
    assert all(len(image["alt"]) > 40 for image in images)
    assert "faking: 0.982 with and 0.021 without oversight" in images[0]["alt"]
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert all(header["scope"] in ("row", "col") for header in page.all("th"))


def test_page_contains_the_numbers(tmp_path, results):
    write_results(tmp_path, results)
    text = page_of(tmp_path).text
    for expected in (
        "0.954",
        "[0.921, 0.978]",
        "0.021 → 0.941",
        "0.977 [0.947, 1.000]",
        "norm_matched_random",
        "0.034 [0.004, 0.064]",
        "0.0123",
        "1.004",
        "1.013 times",
        "2 min 10 s",
        "unseen_wordings",
        "versions.torch",
        "2.13.0",
        "affine at layers.3.residual (chosen)",
        "shared_groups.train/test",
        "none",
        "-0.001",
    ):
        assert expected in text, expected
    assert not re.search(r"\bnan\b", text)


def test_texts_are_escaped(tmp_path, results):
    bad = '<script>alert("1")</script>&'
    tainted = replace(
        results,
        experiment=bad,
        chosen=Chosen(bad, bad, 1.0, bad),
        baselines={bad: results.baselines["identity"]},
        cells={**results.cells, bad: results.cells["faking"]},
        candidates=[replace(results.candidates[0], site=bad, regressor=bad, positions=bad)],
        extra_tests={bad: results.extra_tests["unseen_wordings"]},
        provenance={bad: bad},
        leak_report={"total": 0, bad: bad},
    )
    for name in ("one", "two"):
        write_results(tmp_path / name / "results.json", tainted)
    page = page_of(tmp_path)
    assert not page.all("script")
    assert page.text.count(bad) > 15


def test_leaks_are_said_aloud(tmp_path, results):
    write_results(tmp_path, replace(results, leak_report={"total": 7}))
    assert "7: these accuracies cannot be trusted" in page_of(tmp_path).text


def test_bare_results_make_a_page(tmp_path, bare_results):
    write_results(tmp_path, bare_results)
    text = page_of(tmp_path).text
    assert "bare" in text
    assert "nan" not in text
    assert "Baselines" not in text


def test_several_experiments_share_a_page(tmp_path, named_results):
    write_results(tmp_path / "a" / "results.json", named_results("first"))
    write_results(tmp_path / "b" / "results.json", named_results("second"))
    write_results(tmp_path / "c" / "results.json", named_results("second"))
    (tmp_path / "logs").mkdir()
    page = page_of(tmp_path)
    links = [attributes["href"] for attributes in page.all("a")]
    sections = [f"#{attributes['id']}" for attributes in page.all("section")]
    assert links == sections
    assert len(sections) == 3
    assert "second (c)" in page.text


def test_a_folder_s_own_results_come_first(tmp_path, named_results):
    write_results(tmp_path / "results.json", named_results("own"))
    write_results(tmp_path / "sub" / "results.json", named_results("nested"))
    text = page_of(tmp_path).text
    assert "own" in text
    assert "nested" not in text


def test_same_results_give_the_same_page(tmp_path, results):
    write_results(tmp_path, results)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def test_folders_of_others_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(
        FileNotFoundError,
        match=r"holds no result of a study \(results.json, .*nor do its subfolders.*`python -m fa_lightning fit`",
    ):
        write_report(tmp_path)
    (tmp_path / "photos" / "results.json").write_text(json.dumps({"photos": 3}))
    with pytest.raises(ValueError, match=r"photos/results.json is not a results file"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_chains_of_a_base_are_joined(tmp_path, results):
    other = replace(results, recovery=replace(results.recovery, value=0.5))
    for seed, own in enumerate((results, other)):
        write_results(tmp_path / "embedded" / f"seed{seed}" / "steering" / "results.json", own)
    page = page_of(tmp_path / "embedded")
    assert "embedded, steering: 2 chains" in page.text
    assert "0.727 (0.500 to 0.954)" in page.text
    assert "embedded, steering, seed 1" in page.text
    assert "embedded, steering, seed 0" in page_of(tmp_path / "embedded" / "seed0").text
    tables = tables_of(tmp_path / "embedded")
    assert list(tables) == ["steering-models", "steering-texts", "steering-abilities"]
    table = tables["steering-models"]
    line = "| **steered** | all | 0.977 | 0.941 | 0.727 (0.500 to 0.954) | 0.0123 | 0.2345 | 0.870 | 1.004 | 0.997 |"
    assert line in table
    assert "2 chains (seeds 0, 1): mean and range over chains" in table
    assert "| **constant answer** | all | 0.500 | 0.500 | 0.497 |" in table


def tables_of(folder):
    return markdown_tables(find_results(folder))


def test_tables_of_a_document_are_named_by_study_and_table(tmp_path, results):
    write_results(tmp_path / "embedded" / "seed0" / "steering" / "results.json", results)
    write_probes(tmp_path / "embedded" / "seed0" / "probes" / "01_probes", made_up_probes())
    steering = [f"steering-{name}" for name in ("models", "summary", "texts", "abilities")]
    names = [*steering, "probes-probes", "probes-facts"]
    assert list(tables_of(tmp_path / "embedded")) == names
    # Of a second base the names say which.
    write_results(tmp_path / "mine" / "seed0" / "steering" / "results.json", results)
    assert "mine-steering-seed-0-steering-models" in tables_of(tmp_path)


def test_a_document_keeps_what_people_wrote(tmp_path, results):
    folder = tmp_path / "embedded" / "seed0" / "steering"
    write_results(folder / "results.json", results)
    document = tmp_path / "docs" / "embedded.md"
    document.parent.mkdir()
    begin, end = "<!-- begin steering-models -->", "<!-- end steering-models -->"
    document.write_text(f"# Ours\n\nBefore.\n\n{begin}\n| old |\n{end}\n\nAfter, with a \\1 in it.\n", "utf-8")
    assert write_markdown(folder, document) == document
    text = document.read_text("utf-8")
    assert text.startswith(f"# Ours\n\nBefore.\n\n{begin}\n| model |")
    assert "old" not in text
    assert f"{end}\n\nAfter, with a \\1 in it.\n\n<!-- begin steering-summary -->\n" in text
    # Once its markers are there, nothing is added any more.
    write_markdown(folder, document)
    assert document.read_text("utf-8") == text


BEGIN, END = "<!-- begin steering-models -->", "<!-- end steering-models -->"


@pytest.mark.parametrize(
    "markers", [[BEGIN], [END], [END, BEGIN], [BEGIN, END, BEGIN, END], [BEGIN, BEGIN, END]], ids=str
)
def test_markers_that_belong_to_no_table_are_refused_and_nothing_is_lost(tmp_path, results, markers):
    write_results(tmp_path / "results.json", results)
    document = tmp_path / "mine.md"
    document.write_text("# Ours\n" + "\nOur words.\n".join(["", *markers, ""]), "utf-8")
    before = document.read_bytes()
    with pytest.raises(UserError, match="a table needs each of them once"):
        write_markdown(tmp_path, document)
    assert document.read_bytes() == before


def test_a_document_keeps_its_line_ends_and_its_mark(tmp_path, results):
    write_results(tmp_path / "results.json", results)
    document = tmp_path / "mine.md"
    document.write_bytes(b"\xef\xbb\xbf# Ours\r\n\r\n" + f"{BEGIN}\r\nold\r\n{END}\r\nAfter.\r\n".encode())
    write_markdown(tmp_path, document)
    written = document.read_bytes()
    assert written.startswith(b"\xef\xbb\xbf# Ours\r\n")
    assert written.count(b"\xef\xbb\xbf") == 1
    assert written.count(b"\n") == written.count(b"\r\n") > 5
    assert b"| model |" in written
    write_markdown(tmp_path, document)
    assert document.read_bytes() == written


def test_the_command_prints_or_writes(tmp_path, results, capsys):
    write_results(tmp_path / "results.json", results)
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert main([str(tmp_path), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("<!-- begin steering-models -->\n| model |")
    assert main([str(tmp_path), "--markdown", str(tmp_path / "new.md")]) == 0
    assert (tmp_path / "new.md").read_text("utf-8") == printed

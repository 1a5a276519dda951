"""What is committed follows from its records: `python -m benchmarks.report --check` names what does not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import record, report
from benchmarks import spec as spec_module
from benchmarks.record import Record
from benchmarks.spec import expand, load

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = """
title: made up
source: {arxiv: "0000.00000", item: Table 9}
recipe: recipes/mtp/code.yaml
runs:
  one: {label: one, x: 1, overrides: {model.init_args.net.init_args.n: 1}}
  two: {label: two, x: 2, overrides: {model.init_args.net.init_args.n: 2}}
metrics: [{keys: [test/a], label: a, direction: lower, digits: 2}, {keys: [test/b], label: b, direction: lower, digits: 2}]
claims:
  - {kind: better, rows: [one, two], metrics: [test/a], sentence: One is better.}
  - {kind: better, rows: [two, one], metrics: [test/a], sentence: Two is better.}
  - {kind: better, rows: [two, one], metrics: [test/b], sentence: Nobody knows.}
panels: [{y: test/a, title: The figure, xlabel: size, ylabel: a}]
scales: {laptop: {seeds: [0]}, desk: {seeds: [0, 1]}, gpu: {seeds: [0]}, paper: {seeds: [0]}}
"""
README = f"# made up\nBefore.\n\n{report.START}\nold\n{report.END}\n\nAfter.\n"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A repository with one spec and no records, written once."""
    for module in (spec_module, record, report):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    monkeypatch.setattr(report.speed, "FOLDER", tmp_path / "speed")
    specs = tmp_path / "benchmarks" / "specs"
    for module in (spec_module, report):
        monkeypatch.setattr(module, "SPECS", specs)
    specs.mkdir(parents=True)
    (specs / "table-made-1.yaml").write_text(SPEC)
    (tmp_path / "README.md").write_text(README)
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    assert report.main([]) == 0
    return tmp_path


def saved(scale="desk", rows=("one", "two"), seeds=(0, 1), **fields):
    """Records of these runs, in their place; `one` is better by 1.0 on a."""
    records = []
    for run in expand(load("table-made-1"), scale):
        if run.row in rows and run.seed in seeds:
            value = run.seed + 0.01 * (run.row == "one") * run.seed + (run.row == "two")
            about = {"metrics": {"test/a": value}, "curve": {"val/a": [[10.0, value], [20.0, value / 2]]}}
            done = Record(run.recipe, run.row, scale, run.seed, run.key, run.command, "ok", "2024-05-01", crowd=0.0,
                          data={"description": "made-up text", "fingerprint": "f0"}, **{**about, **fields})  # fmt: skip
            record.save(done, record.folder(scale))
            records.append(done)
    return records


def pages(house):
    return {path.name: path.read_bytes() for path in (house / "benchmarks" / "pages").iterdir()}


def test_what_was_just_written_passes_and_is_not_written_again(house, capsys):
    saved()
    assert report.main([]) == 0
    before = {path: path.stat().st_mtime_ns for path in house.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert report.main(["--check"]) == 0 and capsys.readouterr().out == ""
    assert report.main([]) == 0
    assert {path: path.stat().st_mtime_ns for path in house.rglob("*") if path.is_file()} == before
    assert set(pages(house)) == {"status.json", "table-made-1.md", "table-made-1.svg", "table-made-1-figure.svg"}


@pytest.mark.parametrize("name", ["table-made-1.md", "table-made-1.svg", "table-made-1-figure.svg", "status.json"])
def test_an_edited_or_missing_file_is_named(house, name, capsys):
    saved()
    report.main([])
    path = house / "benchmarks" / "pages" / name
    for spoil in (lambda: path.write_bytes(path.read_bytes() + b" "), path.unlink):
        spoil()
        capsys.readouterr()
        before = pages(house)
        assert report.main(["--check"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1 and lines[0].startswith(f"benchmarks/pages/{name} ") and "`make pages`" in lines[0]
        assert pages(house) == before  # nothing is written
    assert report.main([]) == 0 and report.main(["--check"]) == 0


def test_a_new_record_a_changed_spec_and_changed_code_are_drift(house, capsys):
    (house / "zoo").mkdir()
    (house / "zoo" / "net.py").write_text("x = 1")
    code = {"zoo/net.py": record.code_hash(house / "zoo" / "net.py")}
    saved(code=code)
    assert report.main(["--check"]) == 1 and "benchmarks/pages/table-made-1.md" in capsys.readouterr().out
    report.main([])
    spec = house / "benchmarks" / "specs" / "table-made-1.yaml"
    spec.write_text(SPEC.replace("title: made up", "title: renamed"))
    assert report.main(["--check"]) == 1
    report.main([])
    assert pages(house)["table-made-1.md"].decode().startswith("# renamed\n")
    (house / "zoo" / "net.py").write_text("x = 2")
    record.code_hash.cache_clear()
    capsys.readouterr()
    assert report.main(["--check"]) == 1
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {
        "README.md", "benchmarks/pages/status.json", "benchmarks/pages/table-made-1.md"}  # fmt: skip
    report.main([])
    assert json.loads(pages(house)["status.json"])["table-made-1"]["stale"] == ["zoo/net.py"]
    assert "| result, stale |" in (house / "README.md").read_text()
    record.code_hash.cache_clear()


def test_a_page_of_nothing_is_named_and_removed(house, capsys):
    old = house / "benchmarks" / "pages" / "table-gone-1.md"
    old.write_text("# gone")
    capsys.readouterr()
    assert report.main(["--check"]) == 1 and "benchmarks/pages/table-gone-1.md" in capsys.readouterr().out
    report.main([])
    assert not old.exists()


def test_an_unreadable_record_is_told_and_fails(house, capsys):
    folder = house / "benchmarks" / "results" / "mtp-code"
    folder.mkdir(parents=True)
    (folder / "bad.json").write_text("{")
    assert report.main(["--check"]) == 1
    assert "benchmarks/results/mtp-code/bad.json is not a readable record" in capsys.readouterr().out


def test_the_same_bytes_twice(house):
    records = saved()
    assert report.outputs(records) == report.outputs(records[::-1])


def test_pages_of_other_committed_scales_come_with_their_records(house):
    saved("gpu", seeds=(0,))
    report.main([])
    assert {"table-made-1.md", "table-made-1-gpu.md", "table-made-1-gpu.svg"} <= set(pages(house))
    assert "table-made-1-paper.md" not in pages(house)
    status = json.loads(pages(house)["status.json"])
    assert status["table-made-1"]["status"] == "planned" and status["table-made-1-gpu"]["status"] == "result"


def test_own_scales_are_written_under_runs_only(house):
    records = saved("laptop", seeds=(0,))
    before = pages(house)
    path = report.write(load("table-made-1"), "laptop", records)
    assert path == house / "runs" / "pages" / "table-made-1-laptop.md" and "(table-made-1-laptop.svg)" in path.read_text()
    assert path.with_suffix(".svg").exists() and report.main([]) == 0 and pages(house) == before


def test_status_says_what_there_is(house):
    saved(rows=("one",))
    report.main([])
    about = json.loads(pages(house)["status.json"])["table-made-1"]
    assert about["status"] == "partial" and about["seeds"] == [0, 2]
    saved(rows=("two",))
    report.main([])
    text = pages(house)["status.json"].decode()
    about = json.loads(text, parse_constant=lambda word: pytest.fail(word))["table-made-1"]
    assert about == {
        "title": "made up", "paper": "0000.00000", "item": "Table 9", "scale": "desk", "status": "result", "seeds": [2, 2],
        "page": "benchmarks/pages/table-made-1.md", "stale": [], "replayed": 0, "tally": "1 holds, 1 reversed, 1 not measured",
        "verdicts": [{"claim": "One is better.", "word": "holds"}, {"claim": "Two is better.", "word": "reversed"},
                     {"claim": "Nobody knows.", "word": "not measured"}],
    }  # fmt: skip
    assert list(about) == sorted(about) and str(house) not in text


def test_the_readmes_table_is_rewritten_between_its_marks(house, capsys):
    readme = house / "README.md"
    planned = readme.read_text()
    assert planned.startswith("# made up\nBefore.\n\n") and planned.endswith(f"{report.END}\n\nAfter.\n") and "old" not in planned
    assert "| planned |" in planned
    saved()
    report.main([])
    row = next(line for line in readme.read_text().splitlines() if line.startswith("| [table-made-1]"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "[table-made-1](benchmarks/pages/table-made-1.md)", "Table 9, arXiv:0000.00000", "desk", "2",
        "1 holds, 1 reversed, 1 not measured", "result"]  # fmt: skip
    readme.write_text(readme.read_text().replace("1 holds", "2 hold"))
    capsys.readouterr()
    assert report.main(["--check"]) == 1 and capsys.readouterr().out.startswith("README.md ")
    readme.write_text("# without marks\n")
    with pytest.raises(ValueError, match="must hold the lines"):
        report.main([])


def test_plots_are_named_in_the_page_only_where_they_exist(house):
    assert ".svg" not in pages(house)["table-made-1.md"].decode()
    records = [replace(r, curve={}) for r in saved()]
    drawn = report.outputs(records)
    page = drawn[house / "benchmarks" / "pages" / "table-made-1.md"].decode()
    assert "(table-made-1-figure.svg)" in page and "(table-made-1.svg)" not in page

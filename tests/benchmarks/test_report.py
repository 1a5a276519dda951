"""Pages from made records: each cell is computed here again, by hand."""

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest

from benchmarks import cells as numbers
from benchmarks import page as page_module
from benchmarks import record, report
from benchmarks.cells import Results
from benchmarks.page import number
from benchmarks.record import Record
from benchmarks.spec import Claim, Metric, expand, load

T2 = 4.302652729911275  # two-sided 95 % quantile of Student's t with 2 degrees of freedom, from a printed table
SMALL = """
title: made up
source: {arxiv: "0000.00000", item: Table 9}
recipe: recipes/mtp/code.yaml
runs:
  base: {label: base, x: 1, line: plain, overrides: {model.init_args.net.init_args.n: 1},
         paper: {place: "Table 9, base", cells: {test/a: 50, test/b@1: 3.0}}}
  new: {label: new, baseline: base, x: 2, line: ours, overrides: {model.init_args.net.init_args.n: 2},
        paper: {place: "Table 9, new", cells: {test/a: 40, ratio(test/b@1): 77.7, test/b@2: 8.0}}}
  big: {label: big, baseline: base, x: 3, line: ours, scales: [paper], why: needs a cluster,
        overrides: {model.init_args.net.init_args.n: 3}, paper: {place: "Table 9, big", cells: {test/a: 33.3}}}
metrics:
  - {keys: [test/a], label: "a, units", direction: lower, digits: 2}
  - {keys: [gap(test/a)], label: "a, more than base", direction: lower, digits: 2}
  - {keys: [ratio(step_seconds)], label: "time, of base", direction: lower, digits: 2, error: 0.05}
  - {keys: [parameters], label: size, direction: lower, digits: 0, error: 0}
  - {keys: [test/b@1, test/b@2], label: b@1/2, direction: higher, digits: 1}
  - {keys: [ratio(test/b@1)], label: "b@1, of base", direction: higher, digits: 1}
  - {keys: [test/nobody], label: nobody's, direction: higher, digits: 1}
claims:
  - {kind: better, rows: [new, base], metrics: [test/a], sentence: Ours is better., margin: 0.1}
  - {kind: better, rows: [new, base], metrics: [test/b@1], sentence: It is more.}
scales: {desk: {seeds: [0, 1, 2], note: A remark.}, laptop: {seeds: [0]}, paper: {seeds: [0]}}
"""


@pytest.fixture(scope="module")
def spec():
    return load("table-mtp-1")


@pytest.fixture
def small(tmp_path):
    (tmp_path / "table-made-1.yaml").write_text(SMALL)
    return load(tmp_path / "table-made-1.yaml")


def made(run, **fields):
    base = Record(
        run.recipe, run.row, run.scale, run.seed, run.key, run.command,
        status="ok", date="2024-05-01T10:00:00+00:00", data={"description": "Python code", "fingerprint": "abc"},
        versions={"torch": "2.9.1"}, device="a processor, 2 threads", tokens=1000, parameters=12345, crowd=0.0,
    )  # fmt: skip
    return replace(base, **fields)


def find(spec, scale, row, seed=0):
    return next(r for r in expand(spec, scale) if (r.row, r.seed) == (row, seed))


def of(spec, scale="desk", key="test/a", **rows):
    """Records of these rows; the values of `key` are given in order of seed."""
    return [
        made(find(spec, scale, row, seed), metrics={key: value})
        for row, values in rows.items()
        for seed, value in enumerate(values)
    ]


def cells(page, label):
    """Column head -> cells of the row with this label; "paper" columns follow their own, so they are listed in order."""
    lines = [[cell.strip("| ") for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("| ")]
    return list(zip(lines[0], next(line for line in lines if line[0] == label)))


# -- cells ----------------------------------------------------------------------------------------------------------------
def test_without_records_every_cell_of_ours_is_a_dash_and_the_paper_stands_beside(spec):
    page = report.page(spec, "laptop", [])
    row = cells(page, "BPE, n = 4")
    assert [cell for name, cell in row if name not in ("row", "paper")] == ["—"] * 3  # what neither side has is no column
    assert [cell for name, cell in row if name == "paper"] == ["33.8/55.9/76.9", "24.0/40.1/66.1", "1.6/7.1/19.9"]
    assert "No run of this scale has a record yet." in page


def test_a_page_that_has_what_its_runs_need_alone_says_so():
    spec = load("table-mtp-s3")
    need = next(need for run in expand(spec, "desk") for need in run.needs)
    page = report.page(spec, "desk", [made(need)])
    assert "No run of this scale has a record yet, though nets that its runs need have one." in page
    page = report.page(spec, "desk", [made(need, metrics={"test/next": 4.25, "test/dead": 0.125})])
    assert f"## What they needed\n\n- `{need.row}`, seed {need.seed}: next 4.25, dead 0.125.\n" in page
    assert "Measured here" not in page


def test_a_page_says_how_good_the_space_is_that_its_runs_are_given(tmp_path, monkeypatch):
    spec = load("figure-lcm-14")
    assert "The space that it stands on" not in report.page(spec, "smoke", [])
    folder = tmp_path / spec.scales["desk"].given["space"]
    folder.mkdir(parents=True)
    measured = {"autobleu_30": 91.25, "exact_30": 80.0, "autobleu_30@0.1": 70.0, "autobleu": 85.0}
    about = {
        "parameters": 4_700_000,
        "text": "sentences of books",
        "measured": measured,
        "beam5": {"exact_30": 84.0},
        "by_source": {"books": {"exact_30": 81.0}, "speeches": {"exact_30": 33.3, "autobleu": 60.0}},
        "scored": {"all": {"30": 1000}, "books": {"30": 50}, "speeches": {"30": 3}},
    }
    (folder / "about.json").write_text(json.dumps(about))
    monkeypatch.setattr(page_module, "ROOT", tmp_path)
    page = report.page(spec, "desk", [])
    told = page.split("## The space that it stands on")[1].split("##")[0]
    assert "`zoo/sonar/small`: 4,700,000 parameters, trained on sentences of books." in told and told.count("4,700,000") == 1
    first = ("autobleu", "85.0")
    assert cells(told, "all of them")[1:] == [first, ("autobleu_30", "91.2"), ("exact_30", "80.0"), ("autobleu_30@0.1", "70.0")]
    assert ("exact_30", "84.0") in cells(told, "all, decoded with beam 5")
    assert cells(told, "speeches")[1:] == [
        ("autobleu", "60.0"),
        *[(name, "—") for name in list(measured)[:3]],
    ]  # of three sentences
    assert cells(told, "books")[2:] == [("autobleu_30", "—"), ("exact_30", "81.0"), ("autobleu_30@0.1", "—")]


def test_cells_follow_the_records(spec):
    run = find(spec, "laptop", "bpe-n2")
    fields = {"metrics": {"test/bits_per_byte": 2.34567, "test/next": 3.456, "test/head2": 4.5}, "tokens_per_second": 12345.6}
    row = dict(cells(report.page(spec, "laptop", [made(run, **fields)]), "BPE, n = 2"))
    assert row["bits/byte, head 1"] == "2.346"  # one seed without a stated error: no ±
    assert row["loss per head, nats/token"] == "3.46/4.50"
    assert row["tokens/s"] == "12,346"
    assert row["MBPP pass@1/10/100, %"] == "—"


def test_a_column_with_a_gap_shows_it(small):
    page = report.page(small, "laptop", of(small, "laptop", "test/b@2", new=[5.0]))
    assert dict(cells(page, "new"))["b@1/2"] == "—/5.0"


def test_several_seeds_print_the_mean_and_its_interval(small):
    values = [1.0, 2.0, 6.0]
    page = report.page(small, "desk", of(small, new=values))
    assert dict(cells(page, "new"))["a, units"] == f"{mean(values):.2f} ± {T2 * stdev(values) / math.sqrt(3):.2f}"
    assert (
        "**3 of 6 runs so far.**" in page
        and "3 of 3 seeds" in page
        and "0 of 3 seeds" in page
        and "half-width of the 95 % interval over seeds" in page
    )


def test_the_keys_of_a_column_share_the_widest_interval(small):
    pairs = [(1.0, 10.0), (1.1, 20.0), (1.2, 60.0)]
    records = [made(find(small, "desk", "new", s), metrics={"test/b@1": a, "test/b@2": b}) for s, (a, b) in enumerate(pairs)]
    half = T2 * stdev([b for _, b in pairs]) / math.sqrt(3)
    assert dict(cells(report.page(small, "desk", records), "new"))["b@1/2"] == f"1.1/30.0 ± {half:.1f}"


def test_one_measurement_has_its_stated_error_and_an_exact_count_has_none(small):
    records = [made(find(small, "laptop", row), step_seconds=t, parameters=2000) for row, t in (("base", 2.0), ("new", 3.0))]
    row = dict(cells(report.page(small, "laptop", records), "new"))
    assert row["time, of base"] == "1.50 ± 0.08" and row["size"] == "2,000"  # 1.5 × 0.05


def test_ratio_and_gap_are_paired_by_seed(small):
    base, new = {0: 1.0, 1: 5.0, 2: 2.0}, {1: 5.5, 2: 2.75}
    records = of(small, base=base.values())
    records += [made(find(small, "desk", "new", s), metrics={"test/a": v}, step_seconds=s * 6.0) for s, v in new.items()]
    records[:3] = [replace(r, step_seconds=2.0) for r in records[:3]]
    found = numbers.cells(small, "desk", records)
    assert found["new", "gap(test/a)"] == {1: 0.5, 2: 0.75}
    assert found["new", "ratio(step_seconds)"] == {1: 3.0, 2: 6.0}
    page = report.page(small, "desk", records)
    assert dict(cells(page, "base"))["a, more than base"] == "0" and dict(cells(page, "base"))["time, of base"] == "1"
    assert dict(cells(report.page(small, "desk", []), "base"))["a, units"] == "—"


def test_saving_is_the_share_of_the_tokens_that_a_run_could_do_without():
    slow, fast = [(1e6, 4.0), (2e6, 3.0), (4e6, 2.0)], [(1e6, 3.5), (2e6, 2.5), (4e6, 1.5)]
    assert numbers.saving(fast, slow) == pytest.approx(0.25)  # it reaches 2.0 half-way between 2 and 4 million
    assert numbers.saving(slow, fast) == pytest.approx(-0.25)
    assert numbers.saving(slow, slow) == 0.0
    assert numbers.saving([(1e6, 1.0), (4e6, 0.5)], slow) == pytest.approx(0.75)  # at its first validation already


def test_exponentials_and_savings_are_metrics_too(small):
    metric = lambda key: Metric([key], key, "lower", 2)
    spec = replace(small, metrics=[*small.metrics, metric("exp(test/a)"), metric("saving(test/a)"), metric("all_flops")])
    curves = {"base": [[1e6, 4.0], [2e6, 2.0]], "new": [[1e6, 3.0], [2e6, 1.0]]}
    records = [
        made(find(spec, "laptop", row), metrics={"test/a": 2.0}, curve={"val/a": curve}, flops=3.0, teacher_flops=2.0)
        for row, curve in curves.items()
    ]
    found = numbers.cells(spec, "laptop", records)
    assert found["new", "exp(test/a)"] == {0: pytest.approx(math.e**2)} and found["new", "all_flops"] == {0: 5.0}
    assert found["new", "saving(test/a)"] == {0: pytest.approx(0.25)} and ("base", "saving(test/a)") not in found
    curve = numbers.Results(spec, "laptop", records).curves["new", "exp(test/a)"][0]
    assert curve == [(1e6, pytest.approx(math.e**3)), (2e6, pytest.approx(math.e))]


def test_a_reference_that_nobody_measured_is_a_dash(small):
    page = report.page(small, "laptop", [made(find(small, "laptop", "base")), made(find(small, "laptop", "new"))])
    assert dict(cells(page, "base"))["a, more than base"] == "—"
    other = of(small, "laptop", new=[1.0]) + [made(find(small, "laptop", "base"))]
    assert ("new", "gap(test/a)") not in numbers.cells(small, "laptop", other)


def test_the_papers_gap_and_ratio_follow_from_its_cells_unless_it_prints_them(small):
    assert numbers.paper_value(small, "new", "gap(test/a)") == -10
    assert numbers.paper_value(small, "new", "ratio(test/a)") == 0.8
    assert numbers.paper_value(small, "new", "ratio(test/b@1)") == 77.7
    assert numbers.paper_value(small, "new", "gap(test/b@2)") is None  # the baseline has no such cell
    row = cells(report.page(small, "desk", []), "new")
    assert ("paper", "-10.00") in row and ("paper", "—/8.0") in row
    printed = {"base": 25.3, "new": 24.7}  # perplexities say what they are in nats
    runs = {name: replace(row, paper=replace(row.paper, cells={"exp(test/a)": printed[name]})) for name, row in small.runs.items()
            if name in printed}  # fmt: skip
    in_nats = replace(small, runs=runs)
    assert numbers.paper_value(in_nats, "new", "gap(test/a)") == pytest.approx(math.log(24.7 / 25.3))
    assert numbers.paper_value(in_nats, "new", "test/a") == pytest.approx(math.log(24.7))


def test_the_papers_numbers_never_stand_in_our_columns(small):
    full = of(small, base=[1, 2, 3], new=[2, 3, 4])
    for records in ([], of(small, new=[1.23]), full):
        for scale, label in (("desk", "new"), ("desk", "big"), ("paper", "big")):
            row = cells(report.page(small, scale, records), label)
            own = [cell for name, cell in row if name not in ("paper", "row")]
            assert not any(cell in own for cell in ("40.00", "33.30", "-10.00", "—/8.0", "77.7"))
            assert label != "big" or set(own) == {"—"}
    assert "40" not in report.summary(small, "desk", full) and "33.3" not in report.summary(small, "desk", full)


def test_times_of_runs_that_shared_the_machine_are_left_out_and_that_is_said_once(small):
    rows = [made(find(small, "laptop", row), step_seconds=2.0, metrics={"test/a": 1.0}) for row in ("base", "new")]
    quiet = report.page(small, "laptop", rows)
    busy = report.page(small, "laptop", [rows[0], replace(rows[1], crowd=0.9)])
    assert dict(cells(quiet, "new"))["time, of base"] == "1.00 ± 0.05" and "Times are left out" not in quiet
    assert dict(cells(busy, "new"))["time, of base"] == "—"
    assert busy.count("Times are left out of the 1 run that shared the machine with other work.") == 1


def test_rows_that_do_not_run_here_are_dashes_and_say_why(small):
    page = report.page(small, "desk", [])
    assert dict(cells(page, "big"))["a, units"] == "—" and "Not run at this scale: big (needs a cluster)." in page
    assert "Not run at this scale" not in report.page(small, "paper", [])


def test_columns_that_neither_side_has_are_not_printed(small):
    page = report.page(small, "desk", of(small, new=[1.0, 2.0, 3.0]))
    head = [name for name, _ in cells(page, "new")]
    assert "nobody's" not in head and "a, units" in head and "b@1/2" in head


def test_rows_of_the_paper_that_stand_beside_none_of_ours_have_a_table_of_their_own():
    sizes = load("figure-mtp-3")
    page = report.page(sizes, "desk", of(sizes, key="test/bits_per_byte", **{"0p3m-n1": [2.0, 2.1, 2.2]}))
    heads = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| row ")]
    assert heads[0][1] == "bits/byte, head 1" and "paper" not in heads[0] and heads[1].count("paper") == 2
    assert "bits/byte, head 1" not in heads[1] and "Not run at this scale: 18 rows, 0.3B, n = 1 to 13B, n = 4." in page
    planned = report.page(load("figure-mtp-2"), "desk", [])
    assert {cell for _, cell in cells(planned, "head by head, n = 8")[1:]} == {"—"}


# -- records --------------------------------------------------------------------------------------------------------------
def test_a_record_of_another_scale_seed_or_configuration_is_not_used(small):
    run = find(small, "desk", "new")
    others = [made(find(small, "laptop", "new")), made(run, key="000000000000"), made(replace(run, seed=9), key="111111111111")]
    page = report.page(small, "desk", [replace(r, metrics={"test/a": 7.0}) for r in others])
    assert dict(cells(page, "new"))["a, units"] == "—"


def test_a_run_that_two_specs_share_counts_for_both(small, tmp_path):
    (tmp_path / "table-other-2.yaml").write_text(SMALL.replace("new:", "renamed:").replace("[new,", "[renamed,"))
    other = load(tmp_path / "table-other-2.yaml")
    records = of(small, new=[1.0, 2.0, 6.0])
    assert dict(cells(report.page(other, "desk", records), "new"))["a, units"].startswith("3.00 ± ")


def test_the_newest_record_of_a_seed_counts_and_a_failed_one_never(small):
    run = find(small, "laptop", "new")
    old = made(run, date="2024-05-01", metrics={"test/a": 1.0})
    new = made(run, date="2024-05-02", metrics={"test/a": 2.0})
    failed = made(run, date="2024-05-03", metrics={"test/a": 3.0}, status="failed", error="it broke.")
    page = report.page(small, "laptop", [new, failed, old])
    assert dict(cells(page, "new"))["a, units"] == "2.00" and "2024-05-03: it broke." in page  # the newer failure is told
    page = report.page(small, "laptop", [failed])
    assert "## Failed runs" in page and "- `new`, seed 0, 2024-05-03: it broke.\n" in page
    assert dict(cells(page, "new"))["a, units"] == "—"


# -- words ----------------------------------------------------------------------------------------------------------------
WORDS = [
    ("Holds", "better", [4.0, 5.1, 6.2]),
    ("Reversed", "worse", [6.0, 6.9, 8.0]),
    ("No effect larger than 0.1", "worse", [5.01, 6.0, 7.01]),
    ("Undecided", "better", [4.0, 6.5, 6.9]),
]


@pytest.mark.parametrize("word, how, values", WORDS)
def test_a_verdict_in_words(small, word, how, values):
    base = [5.0, 6.0, 7.0]
    page = report.page(small, "desk", of(small, base=base, new=values))
    by = [(b - v) * (1 if how == "better" else -1) for b, v in zip(base, values)]  # lower is better
    centre, half = mean(by), T2 * stdev(by) / math.sqrt(3)
    numbers = f"{number(centre, 2)} [{number(centre - half, 2)}, {number(centre + half, 2)}]"
    margin = "smallest difference that counts: 0.1"
    assert f"“Ours is better.”  \n    **{word}**: new is {how} than base by {numbers} (a, units), 3 seeds; {margin}." in page
    assert "“It is more.”  \n    **Not measured**: b@1/2." in page
    assert ("would decide it" in page) == (word == "Undecided") == ("no seeds are added to these after looking" in page)


def test_each_comparison_of_a_claim_has_its_line(small):
    claim = Claim("better", ["new", "base"], ["test/a", "gap(test/a)", "test/b@1"], "Everything is better.")
    several = replace(small, claims=[claim])
    page = report.page(several, "desk", of(small, base=[5.0, 6.1, 7.1], new=[4.0, 5.1, 6.2]))
    assert "**Holds**" not in page and "**Undecided**:\n\n    - holds: new is better than base by 0.97 [" in page
    assert "(a, more than base), 3 seeds" in page and "    - not measured: 1 more" in page


def test_a_claim_that_a_scale_cannot_judge_says_why(small):
    claims = [replace(small.claims[0], scales=["paper"], why="steps are too few"), small.claims[1]]
    spec = replace(small, claims=claims)
    records = [made(find(spec, "desk", row, seed), metrics={"test/a": value, "test/b@1": value})
               for row, value in (("base", 5.0), ("new", 1.0)) for seed in range(3)]  # fmt: skip
    text = report.page(spec, "desk", records)
    assert "1 reversed, 1 not judged here." in text and "**Not judged at this scale**: steps are too few." in text
    assert "**Holds**" in report.page(small, "desk", records)


def test_exact_differences_have_no_brackets_and_agreement_names_both_metrics(small):
    records = [made(find(small, "paper", row), parameters=p, step_seconds=2.0, metrics={"test/a": a}) for row, p, a in
               (("base", 2000, 1.0), ("new", 500, 1.25))]  # fmt: skip
    exact = Claim("better", ["new", "base"], ["parameters"], "It is smaller.")
    agrees = Claim("agrees", ["new"], ["ratio(step_seconds)", "test/a"], "It is as told.", margin=0.3)
    page = report.page(replace(small, claims=[exact, agrees]), "paper", records)
    assert "**Holds**: new is better than base by 1,500 (size), exactly." in page
    assert "new: time, of base less a, units is -0.25, measured once; allowed to differ by 0.3." in page


def test_one_seed_is_undecided_without_brackets(small):
    page = report.page(small, "desk", of(small, "desk", base=[5.0], new=[4.0]))
    assert "**Undecided**: new is better than base by 1.00 (a, units), one seed;" in page and "Brackets" not in page
    text = report.summary(small, "paper", of(small, "paper", base=[5.0], new=[4.0]))
    assert text.endswith("No verdict at this scale.") and "undecided" not in text


def test_the_page_says_what_was_measured_on_what(spec):
    fields = {"commit": "0123456789abcdef", "dirty": True, "epochs": 0.068, "flops": 2.5e12, "seconds": 61.2}
    page = report.page(spec, "laptop", [made(find(spec, "laptop", "bytes-n8"), **fields)])
    expected = [
        "arXiv:2404.19737", "Table 1, 7B, 313B bytes (0.5 epoch), bytes, n = 8", "Scale **laptop**", "seed 0.",
        "163,840 training tokens a run", "nets with 12,345 parameters, on Python code", "Python code (with tokenizer: abc)",
        "1,000 tokens", "12,345 parameters", "2.5e+12 FLOPs", "61 s", "each run reads 0.068 of the training text", "2024-05-01",
        "torch 2.9.1", "a processor", "0123456789 with uncommitted changes", spec.scales["laptop"].note,
        *(claim.sentence for claim in spec.claims), "make reproduce-table-mtp-1 SCALE=laptop",
        "zoo fit -c recipes/mtp/code.yaml -c recipes/scales/laptop.yaml --seed_everything=0",
    ]  # fmt: skip
    for words in expected:
        assert words in page, words
    assert "1.3 passes over the training text" in report.page(spec, "laptop", [made(find(spec, "laptop", "bpe-n1"), epochs=1.3)])


def test_a_changed_file_of_the_code_is_named_at_the_top(small, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CHECKOUT", tmp_path)
    for name in ("a.py", "b.py", "c.py"):
        (tmp_path / name).write_text("x = 1")
    code = {name: record.code_hash(tmp_path / name) for name in ("a.py", "b.py")}
    records = [replace(r, code=code) for r in of(small, new=[1.0, 2.0, 3.0])] + of(small, base=[1.0])
    assert "Stale" not in report.page(small, "desk", records)
    (tmp_path / "b.py").write_text("x = 2")
    record.code_hash.cache_clear()
    page = report.page(small, "desk", records)
    assert page.split("\n\n")[1].startswith("**Stale: 3 of the 4 records of this page were made before `b.py` changed.**")
    assert "Stale" not in report.page(small, "desk", records[3:])
    record.code_hash.cache_clear()


def test_page_is_a_function_of_its_arguments(small):
    records = of(small, base=[1, 2, 3], new=[2, 3, 5])
    assert report.page(small, "desk", records) == report.page(small, "desk", records[::-1])
    assert "so far" not in report.page(small, "desk", records)


def test_a_need_is_part_of_the_page(small, tmp_path):
    text = SMALL.replace("new: {label: new, ", "new: {label: new, recipe: recipes/mtp/code.yaml, ").replace(
        "net.init_args.n: 2", 'net.init_args.n: 2, model.init_args.start: "${needs.first}"'
    )
    (tmp_path / "table-needs-1.yaml").write_text(text + "needs: {first: {recipe: recipes/ntp/code.yaml}}\n")
    needing = load(tmp_path / "table-needs-1.yaml")
    page = report.page(needing, "laptop", [])
    assert page.index("zoo fit -c recipes/ntp/code.yaml") < page.index("model.init_args.start=runs/ntp-code/first-")
    need = find(needing, "laptop", "new").needs[0]
    broken = made(need, status="failed", error="it broke")
    assert "- `first`, seed 0, 2024-05-01: it broke." in report.page(needing, "laptop", [broken])
    assert Results(needing, "laptop", [made(need)]).used


def test_a_saved_net_that_is_measured_has_no_tokens_and_no_flops_on_the_page(small):
    as_it_is = made(find(small, "laptop", "new"), tokens=0, seconds=0.0, epochs=0.0)
    page = report.page(small, "laptop", [as_it_is, made(find(small, "laptop", "base"), epochs=0.5, flops=1e9)])
    assert "12,345 parameters, measured as they are" in page and "12,345 parameters, 1,000 tokens, 1e+09 FLOPs" in page
    assert "each run reads 0.5 of the training text" in page and "0 tokens, 0 FLOPs" not in page
    assert "training text" not in report.page(small, "laptop", [as_it_is])


# -- terminal -------------------------------------------------------------------------------------------------------------
def test_summary_shows_measured_columns_and_verdicts_only(small):
    text = report.summary(small, "desk", of(small, base=[5.0, 6.1, 7.1], new=[4.0, 5.1, 6.2]))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2 and "5.10 ± " in text  # big does not run at this scale
    assert all(len(line) == len(table[0]) for line in table)
    assert "b@1/2" not in table[0] and "—: time, of base; b@1/2; b@1, of base; nobody's" in text
    assert text.endswith("holds: Ours is better.\nnot measured, or not judged at this scale: 1 more claims")


def test_summary_of_nothing(spec):
    assert report.summary(spec, "laptop", []) == "No run has a record yet."


def test_committed_and_own_pages_have_their_places(spec):
    assert report.place(spec, "desk").parent.name == "pages" and "benchmarks" in report.place(spec, "desk").parts
    assert report.place(spec, "gpu").name == "table-mtp-1-gpu.md" and "runs" in report.place(spec, "laptop").parts


def test_records_on_other_data_than_the_newest_are_left_out_and_named(small):
    """Arms that read different text are not compared, in silence least of all."""
    base, new = of(small, "desk", base=[5.0, 5.1, 5.2]), of(small, "desk", new=[4.0, 4.1, 4.2])
    moved = [replace(r, data={**r.data, "fingerprint": "another corpus"}, date="2030-01-01") for r in new]
    page = report.page(small, "desk", base + moved)
    assert dict(cells(page, "base"))["a, units"] == "—" and dict(cells(page, "new"))["a, units"].startswith("4.10")
    assert "Left out: 3 records (`base`) on other data than the newest" in page and "Holds" not in page


@pytest.mark.parametrize("name, scale", [("table-lcm-3", "desk"), ("figure-lcm-11", "laptop"), ("table-lcm-6", "paper")])
def test_commands_run_one_by_one_as_they_are_printed(name, scale):
    """What a command reads, one above it left there."""
    lines = page_module._commands(Results(load(name), scale, []))
    commands = [shlex.split(line) for line in lines if line.startswith("zoo ")]
    assert len(commands) == len(set(map(tuple, commands)))
    left: set[str] = set()
    for words in commands:
        told = dict(word.lstrip("-").partition("=")[::2] for word in words if word.startswith("--"))
        own = told.get("out")
        if version := told.get("trainer.logger.init_args.version"):
            recipe = Path(words[words.index("-c") + 1]).with_suffix("")
            own = f"runs/{'-'.join(recipe.parts[1:])}/{version}/pretrained"
        read = {place for word in words for place in re.findall(r"runs/[\w./-]+?/pretrained", word)} - {own}
        assert read <= left, (words, read - left)
        left.add(own)
    assert left - {None}

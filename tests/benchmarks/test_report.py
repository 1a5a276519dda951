"""Pages from made records: each cell is computed here again, by hand."""

from dataclasses import replace

import pytest

from benchmarks import report
from benchmarks.record import Record
from benchmarks.spec import expand, load


@pytest.fixture(scope="module")
def spec():
    return load("table-mtp-1")


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    """Recipes are other tests' business: here a configuration is its overrides."""
    monkeypatch.setattr("benchmarks.spec._read", lambda path: {})


def made(run, **fields):
    base = Record(
        run.recipe, run.row, run.scale, run.seed, run.key, run.command,
        status="ok", date="2024-05-01T10:00:00+00:00", data={"description": "Python code", "fingerprint": "abc"},
        versions={"torch": "2.9.1"}, device="a processor", tokens=1000, parameters=12345,
    )  # fmt: skip
    return replace(base, **fields)


def find(spec, scale, row, seed=0):
    return next(r for r in expand(spec, scale) if (r.row, r.seed) == (row, seed))


def cells(page, label):
    """Column head -> cells of the row with this label; "paper" columns follow their own, so they are listed in order."""
    lines = [[cell.strip() for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("| ")]
    head = lines[0]
    row = next(line for line in lines if line[0] == f"| {label}")
    return list(zip([h.strip("| ") for h in head], [cell.strip("| ") for cell in row]))


def test_without_records_every_cell_of_ours_is_a_dash_and_the_paper_stands_beside(spec):
    page = report.page(spec, "laptop", [])
    row = cells(page, "BPE, n = 4")
    assert [cell for name, cell in row if name not in ("row", "paper")] == ["—"] * 7
    assert [cell for name, cell in row if name == "paper"] == ["33.8/55.9/76.9", "24.0/40.1/66.1", "1.6/7.1/19.9"]
    assert "No run of this scale has a record yet." in page


def test_cells_follow_the_records(spec):
    run = find(spec, "laptop", "bpe-n2")
    record = made(run, metrics={"test/bits_per_byte": 2.34567, "test/next": 3.456, "test/head2": 4.5}, tokens_per_second=12345.6)
    row = dict(cells(report.page(spec, "laptop", [record]), "BPE, n = 2"))
    assert row["bits/byte, head 1"] == "2.346"
    assert row["loss per head, nats/token"] == "3.46/4.50"
    assert row["tokens/s"] == "12,346"
    assert row["MBPP pass@1/10/100, %"] == "—"


def test_a_column_with_a_gap_shows_it(spec):
    metric = next(m for m in spec.metrics if "test/mbpp@1" in m.keys)
    assert report.ours(metric, [made(find(spec, "laptop", "bpe-n1"), metrics={"test/mbpp@10": 5.0})]) == "—/5.0"


def test_several_seeds_print_mean_and_spread(spec):
    values = [1.0, 2.0, 6.0]
    records = [made(find(spec, "desk", "bpe-n4", s), metrics={"test/bits_per_byte": v}) for s, v in enumerate(values)]
    mean = sum(values) / 3
    spread = (sum((v - mean) ** 2 for v in values) / 2) ** 0.5
    page = report.page(spec, "desk", records)
    assert dict(cells(page, "BPE, n = 4"))["bits/byte, head 1"] == f"{mean:.3f} ± {spread:.3f}"
    assert "3 of 3 seeds" in page and "0 of 3 seeds" in page


def test_a_record_of_another_scale_seed_or_configuration_is_not_used(spec):
    run = find(spec, "desk", "bpe-n4")
    others = [made(find(spec, "desk", "bpe-n2")), made(run, key="000000000000"), made(replace(run, seed=9), key="111111111111")]
    others = [replace(r, metrics={"test/bits_per_byte": 7.0}) for r in others]
    assert dict(cells(report.page(spec, "desk", others), "BPE, n = 4"))["bits/byte, head 1"] == "—"


def test_the_newest_record_of_a_seed_counts_and_a_failed_one_never(spec):
    run = find(spec, "laptop", "bpe-n4")
    old = made(run, date="2024-05-01", metrics={"test/bits_per_byte": 1.0})
    new = made(run, date="2024-05-02", metrics={"test/bits_per_byte": 2.0})
    failed = made(run, date="2024-05-03", metrics={"test/bits_per_byte": 3.0}, status="failed", error="it broke")
    page = report.page(spec, "laptop", [new, failed, old])
    assert dict(cells(page, "BPE, n = 4"))["bits/byte, head 1"] == "2.000"
    assert "it broke" not in page
    assert "seed 0 failed: it broke" in report.page(spec, "laptop", [failed])


def test_the_page_says_what_was_measured_on_what(spec):
    page = report.page(spec, "laptop", [made(find(spec, "laptop", "bytes-n8"), commit="0123456789abcdef", dirty=True)])
    expected = [
        "arXiv:2404.19737", "Table 1, 7B, 313B bytes (0.5 epoch), bytes, n = 8", "scale **laptop**", "Seeds: 0",
        "Python code (with tokenizer: abc)", "1,000 tokens", "12,345 parameters", "2024-05-01", "torch 2.9.1", "a processor",
        "0123456789 with uncommitted changes", spec.scales["laptop"].note, *(claim.sentence for claim in spec.claims),
        "zoo fit -c recipes/mtp/code.yaml -c recipes/scales/laptop.yaml --seed_everything=0",
    ]  # fmt: skip
    for words in expected:
        assert words in page, words


def test_page_is_a_function_of_its_arguments(spec):
    records = [made(run, metrics={"test/next": 1.0}) for run in expand(spec, "desk")]
    assert report.page(spec, "desk", records) == report.page(spec, "desk", records[::-1])


def test_summary_shows_measured_columns_only(spec):
    text = report.summary(spec, "laptop", [made(find(spec, "laptop", "bpe-n1"), metrics={"test/bits_per_byte": 2.5})])
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(spec.runs) and "2.500" in text
    assert all(len(line) == len(table[0]) for line in table)
    assert "MBPP" not in table[0] and text.splitlines()[-1].startswith("—: ") and "MBPP" in text.splitlines()[-1]
    assert "33.8" not in text  # the paper's number never stands where ours is missing


def test_summary_of_nothing(spec):
    assert report.summary(spec, "laptop", []) == "No run has a record yet."


def test_committed_and_own_pages_have_their_places(spec):
    assert report.place(spec, "desk").parent.name == "pages" and "benchmarks" in report.place(spec, "desk").parts
    assert "runs" in report.place(spec, "laptop").parts

"""Plots of made records: what is drawn is read back from the axes and from the SVG."""

import math
import re
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from statistics import mean, stdev

import matplotlib
import pytest
from matplotlib.colors import to_hex

from benchmarks import figures
from benchmarks.record import Record
from benchmarks.spec import Metric, Panel, expand, load

T2 = 4.302652729911275  # two-sided 95 % quantile of Student's t with 2 degrees of freedom, from a printed table
TOKENS = [1e6, 2e6, 4e6]
SPEC = """
title: made up
source: {arxiv: "0000.00000", item: Table 9}
recipe: recipes/mtp/code.yaml
runs:
  base: {label: base, x: 1, line: plain, overrides: {model.init_args.net.init_args.n: 1}}
  two: {label: two, baseline: base, x: 10, line: curve, overrides: {model.init_args.net.init_args.n: 2}}
  four: {label: four, baseline: base, x: 100, line: curve, overrides: {model.init_args.net.init_args.n: 4}}
  theirs: {label: theirs, x: 500, line: plain, scales: [paper], overrides: {model.init_args.net.init_args.n: 1},
           paper: {place: Table 9, cells: {test/b: 50}}}
  their4: {label: their4, baseline: theirs, x: 500, line: curve, scales: [paper],
           overrides: {model.init_args.net.init_args.n: 4}, paper: {place: Table 9, cells: {test/b: 43}, x: 700}}
metrics:
  - {keys: [test/a], label: a, direction: lower, digits: 2}
  - {keys: [gap(test/a)], label: more than base, direction: lower, digits: 2}
  - {keys: [test/b], label: b, direction: higher, digits: 2}
  - {keys: [step_seconds], label: "step, s", direction: lower, digits: 2, error: 0.1}
claims:
  - {kind: better, rows: [base, two], metrics: [test/a], sentence: One is better., margin: 0.05}
  - {kind: monotone, rows: [four, two, base], metrics: [test/a], sentence: Fewer is better.}
  - {kind: better, rows: [two, base], metrics: [test/b], sentence: Nobody knows.}
panels:
  - {y: gap(test/a), title: The cost, xlabel: size, ylabel: units of a, paper: gap(test/b),
     paper_ylabel: units of b, paper_xlabel: their size,
     log: true}
  - {y: step_seconds, title: The time, xlabel: size, ylabel: seconds}
scales: {desk: {seeds: [0, 1, 2]}, laptop: {seeds: [0]}, paper: {seeds: [0]}}
"""
LEVEL = {"base": 1.0, "two": 1.5, "four": 2.5}
NOISE = [0.0, 0.1, 0.4]


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "figure-made-1.yaml").write_text(SPEC)
    return load(tmp_path / "figure-made-1.yaml")


def made(spec, scale="desk"):
    """Values fall with tokens; `two` and `four` are noisy, `base` is not."""
    records = []
    for run in expand(spec, scale):
        value = LEVEL[run.row] + NOISE[run.seed] * (run.row != "base")
        records.append(
            Record(
                run.recipe,
                run.row,
                scale,
                run.seed,
                run.key,
                run.command,
                "ok",
                "2024-05-01",
                crowd=0.0,
                step_seconds=2 * value,
                metrics={"test/a": value},
                curve={"val/a": [[t, value + 1e6 / t] for t in TOKENS]},
            )
        )
    return records


def svg(figure):
    file = BytesIO()
    figures.save_svg(figure, file)
    return file.getvalue().decode()


def words(axes):
    return [text.get_text().replace("\u00a0", " ") for text in axes.texts]


def curves(axes):
    """Points of the lines that have markers."""
    return [list(zip(*map(list, line.get_data()))) for line in axes.lines if line.get_marker() not in ("None", "_")]


def test_gap_is_the_paired_difference_with_its_band(spec):
    axes = figures.gaps(spec, "desk", made(spec)).axes
    assert len(axes) == 2  # nobody has curves of b
    (line,) = curves(axes[0])
    by = [LEVEL["base"] - LEVEL["two"] - noise for noise in NOISE]
    assert line == [(t, pytest.approx(mean(by))) for t in TOKENS]
    edge = [y for path in axes[0].collections[0].get_paths() for _, y in path.vertices]
    half = T2 * stdev(by) / math.sqrt(3)
    assert max(edge) == pytest.approx(mean(by) + half) and min(edge) == pytest.approx(mean(by) - half)
    assert "Claim 1: base against two" in words(axes[0]) and "first − second, a; below 0 the first is better" in words(axes[0])
    assert "no effect: ±0.05" in words(axes[0]) and axes[-1].get_xlabel() == "training tokens, millions"


def test_lines_of_one_panel_carry_their_names_and_a_pair_is_drawn_once(spec):
    axes = figures.gaps(spec, "desk", made(spec)).axes[1]
    (line,) = curves(axes)  # of four, two, base: base against two is in the first panel
    assert line[0][1] == pytest.approx(LEVEL["two"] - LEVEL["four"]) and "Claim 2: two against four" in words(axes)
    alone = replace(spec, claims=spec.claims[1:])
    axes = figures.gaps(alone, "desk", made(spec)).axes[0]
    assert len(curves(axes)) == 2
    assert "two\nagainst four" in words(axes) and "base\nagainst two" in words(axes)


def test_one_seed_has_no_band_and_other_seeds_are_ignored(spec):
    records = made(spec)
    lonely = [r for r in records if r.run == "base" or r.seed == 1]
    axes = figures.gaps(replace(spec, claims=[replace(spec.claims[0], margin=0.0)]), "desk", lonely).axes[0]
    assert not axes.collections and curves(axes)[0][0][1] == pytest.approx(-0.5 - NOISE[1])


def test_without_curves_there_is_no_plot(spec):
    assert figures.gaps(spec, "desk", []) is None
    assert figures.gaps(spec, "desk", [replace(r, curve={}) for r in made(spec)]) is None
    assert figures.panels(replace(spec, panels=[]), "desk", made(spec)) is None
    assert figures.panels(replace(spec, panels=spec.panels[1:]), "desk", []) is None


def test_panels_hold_our_points_and_the_papers_apart(spec):
    cost, paper, time = figures.panels(spec, "desk", made(spec)).axes
    assert curves(cost) == [[(10, pytest.approx(0.5 + mean(NOISE))), (100, pytest.approx(1.5 + mean(NOISE)))]]
    assert curves(paper) == [[(700, -7)]]
    assert [axes.get_xlabel() for axes in (cost, paper, time)] == ["size", "their size", "size"]
    assert "The cost" in words(cost) and "units of a" in words(cost) and "measured, 3 seeds" in words(cost)
    assert "Paper: Table 9, arXiv:0000.00000" in words(paper) and "units of b" in words(paper)
    assert "curve" in words(cost) and "plain" in words(cost)  # the level of what is compared with
    assert cost.get_xscale() == "log" and time.get_xscale() == "linear"
    assert len(curves(time)) == 2 and words(time).count("curve") == 1
    there = replace(spec, scales={**spec.scales, "desk": replace(spec.scales["desk"], x={"four": 90.0})})
    (first, second), *_ = curves(figures.panels(there, "desk", made(spec)).axes[0])
    assert (first[0], second[0]) == (10, 90)  # a row's place may depend on the scale


def test_a_panel_of_curves_that_rows_measure(spec):
    keys = [{"keys": [f"test/{axis}{i}" for i in (1, 2, 3)], "label": axis, "direction": "higher", "digits": 1} for axis in "xy"]
    panel = Panel("Curves", "x", "y", xs=keys[0]["keys"], ys=keys[1]["keys"])
    spec = replace(spec, metrics=[*spec.metrics, *(Metric(**each) for each in keys)], panels=[panel])
    values = {"two": {"test/x1": 1.0, "test/x2": 2.0, "test/y1": 5.0, "test/y2": 7.0, "test/y3": 9.0}, "four": {"test/x1": 4.0}}
    records = [replace(r, metrics={k: v + r.seed for k, v in values[r.run].items()}) for r in made(spec) if r.run in values]
    figure = figures.panels(spec, "desk", records)
    assert curves(figure.axes[0]) == [[(2.0, 6.0), (3.0, 8.0)]]  # means over seeds 0, 1, 2; x3 is missing
    assert "two" in words(figure.axes[0]) and "four" not in words(figure.axes[0])


def test_a_panel_along_the_runs(spec):
    panel = lambda along: Panel("Curves", "x", "y", y="test/a", along=along)
    spec = replace(spec, panels=[panel("tokens"), panel("all_flops"), panel("seconds")])
    records = [
        replace(r, tokens=4_000_000, flops=4e9, teacher_flops=4e9, seconds=8.0, crowd=1.0, device="2 threads") for r in made(spec)
    ]
    tokens, flops, seconds = figures.panels(spec, "desk", records).axes
    assert [x for x, _ in curves(tokens)[0]] == TOKENS and [y for _, y in curves(tokens)[0]] == [2.0, 1.5, 1.25]
    assert [x for x, _ in curves(flops)[0]] == [2000 * t for t in TOKENS]
    assert curves(seconds) == [] and "no record yet" in words(seconds)  # times of runs that shared their machine
    quiet = [replace(r, crowd=0.0 if r.seed == 1 else 1.0) for r in records]  # its time is taken for all
    assert [x for x, _ in curves(figures.panels(spec, "desk", quiet).axes[2])[0]] == [2e-6 * t for t in TOKENS]


def test_a_panel_along_the_runs_draws_the_rows_that_it_names(spec):
    panel = lambda rows: Panel("Curves", "x", "y", y="test/a", along="tokens", rows=rows)
    records = [replace(r, tokens=4_000_000) for r in made(spec)]
    all_, one = figures.panels(replace(spec, panels=[panel([]), panel(["two"])]), "desk", records).axes
    assert "two" in words(all_) and "four" in words(all_) and "two" in words(one) and "four" not in words(one)
    assert len(curves(all_)) > len(curves(one)) == 1


def test_a_row_keeps_its_colour_in_every_panel_of_curves(spec):
    keys = [{"keys": [f"test/{axis}{i}" for i in (1, 2)], "label": axis, "direction": "higher", "digits": 1} for axis in "xy"]
    alone = Panel("One row", "x", "y", xs=["test/x2"], ys=["test/y2"])
    both = Panel("Two rows", "x", "y", xs=["test/x1", "test/x2"], ys=["test/y1", "test/y2"])
    spec = replace(spec, metrics=[*spec.metrics, *(Metric(**each) for each in keys)], panels=[alone, both])
    values = {"two": {"test/x1": 1.0, "test/y1": 5.0}, "four": {"test/x2": 4.0, "test/y2": 6.0}}
    records = [replace(r, metrics=values[r.run]) for r in made(spec) if r.run in values]
    first, second = figures.panels(spec, "desk", records).axes
    colours = [{text.get_text(): text.get_color() for text in axes.texts} for axes in (first, second)]
    assert "two" not in colours[0] and colours[0]["four"] == colours[1]["four"] != colours[1]["two"]


def test_bars_are_intervals_over_seeds_or_the_stated_error(spec):
    bars = lambda axes: [path.vertices[:, 1] for lines in axes.collections for path in lines.get_paths()]
    low, high = bars(figures.panels(spec, "desk", made(spec)).axes[0])[0]
    assert (high - low) / 2 == pytest.approx(T2 * stdev(NOISE) / math.sqrt(3))
    time = figures.panels(spec, "laptop", made(spec, "laptop")).axes[2]
    assert sorted((high - low) / 2 for low, high in bars(time)) == pytest.approx([0.1 * 2 * v for v in LEVEL.values()])


def test_a_panel_without_records_says_so_beside_the_papers(spec):
    cost, paper, time = figures.panels(spec, "desk", []).axes
    assert "no record yet" in words(cost) and "no record yet" in words(time) and not curves(cost)
    assert curves(paper) == [[(700, -7)]] and "no record yet" not in words(paper)


def test_lines_differ_in_more_than_colour():
    kinds = zip(figures.COLOURS, figures.DASHES, figures.MARKERS)
    assert len({(dash, marker) for _, dash, marker in kinds}) == len(figures.COLOURS) == len(set(figures.MARKERS))


def test_names_at_line_ends_do_not_touch(spec):
    records = [replace(r, metrics={"test/a": 1.0 + 0.001 * len(r.run)}) for r in made(spec)]
    figure = figures.panels(replace(spec, runs={**spec.runs, "four": replace(spec.runs["four"], line="other")}), "desk", records)
    figure.canvas.draw()
    for axes in figure.axes:
        ends = sorted((t for t in axes.texts if 1 < t.get_position()[0] < 2), key=lambda t: t.get_position()[1])
        boxes = [text.get_window_extent() for text in ends]
        assert all(a.y1 <= b.y0 + 0.5 for a, b in pairwise(boxes))
        assert all(0 <= box.x0 and box.x1 <= figure.bbox.width for text in axes.texts for box in [text.get_window_extent()])


def test_names_of_many_low_lines_are_all_in_the_figure(spec):
    """Lines that end close together, low in the panel: their names go up beside it, and it grows where they are too many."""
    runs = {f"row{i}": replace(spec.runs["base"], line=f"one of the many rows, number {i}", x=float(i)) for i in range(7)}
    curves = {run.line: [(1.0, 100.0, None), (2.0, 1.0 + i / 100, None)] for i, run in enumerate(runs.values())}
    figure, (axes,) = figures._columns(1, curves, sum(2 * figures.LINE + figures.APART for _ in curves))
    figures._curves(axes, replace(spec.panels[0], along="tokens"), "test/a", curves, None)
    figure.canvas.draw()
    names = [text for text in axes.texts if text.get_position()[0] > 1]
    boxes = sorted((text.get_window_extent() for text in names), key=lambda box: box.y0)
    assert len(boxes) == 7 and boxes[0].y0 >= 0 and boxes[-1].y1 <= figure.bbox.height
    assert all(a.y1 <= b.y0 + 0.5 for a, b in pairwise(boxes))


def test_svg_is_the_same_every_time_and_says_nothing_of_when_and_where(spec):
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "svg.fonttype": "none"}):
        odd = svg(figures.panels(spec, "desk", made(spec)))
    first, second = (svg(figures.panels(spec, "desk", made(spec))) for _ in range(2))
    assert first == second == odd
    assert svg(figures.gaps(spec, "desk", made(spec))) == svg(figures.gaps(spec, "desk", made(spec)[::-1]))
    assert not re.search(r"\d\d:\d\d|20\d\d-\d\d|<dc:date|<text", first)  # neither times nor fonts of the reader's machine
    assert to_hex("white") in first and len(first) < 200_000


def test_small_enough_for_a_phone(spec):
    for figure in (figures.panels(spec, "desk", made(spec)), figures.gaps(spec, "desk", made(spec))):
        assert figure.get_figwidth() <= 4.8
        assert min(text.get_fontsize() for axes in figure.axes for text in [*axes.texts, axes.xaxis.label]) >= 8

"""The plots of a page: paired gaps against tokens, and the paper's own figure redrawn beside it.

Every function returns a matplotlib Figure of its own (no pyplot, nothing global), so that a page, a notebook and TensorBoard can
show the same one. One column of panels, readable on a phone; lines carry their names; bands and bars are 95 % intervals.
"""

import textwrap
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import BinaryIO

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from benchmarks.cells import Results, interval, metric_of, paper_value, reference
from benchmarks.record import Record
from benchmarks.spec import Claim, Panel, Spec

# Okabe and Ito's colours, which the colour-blind tell apart, without their yellow; dashes and markers tell them apart once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1)), "-")
MARKERS = "os^DvPX"
GREY = "#595959"
UNITS = ((1e18, "10¹⁸"), (1e15, "10¹⁵"), (1e12, "10¹²"), (1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.edgecolor": GREY,
    "xtick.color": GREY, "ytick.color": GREY, "xtick.labelcolor": "black", "ytick.labelcolor": "black",
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": "#e4e4e4", "grid.linewidth": 0.7,
    "lines.linewidth": 1.6, "lines.markersize": 4.5, "errorbar.capsize": 2.5,
    "figure.facecolor": "white", "savefig.facecolor": "white", "svg.fonttype": "path", "svg.hashsalt": "zoo",
}  # fmt: skip
WIDTH, LEFT, TOP, HEIGHT, BOTTOM = 4.6, 0.55, 0.5, 1.55, 0.48  # inches; the last three of each panel, whose height is the least
LINE, APART = 0.155, 0.03  # inches: a line of the names right of a panel, and what is between two names
NAME, LETTER, TITLE = 19, 0.071, 58  # letters in a line of the names right of a panel, what one takes, letters of a whole title
Line = tuple[str, list[float], list[float], list[float | None]]  # name, x, y, half-widths


_styled = matplotlib.style.context(["default", STYLE])  # whatever a matplotlibrc says


@_styled
def gaps(spec: Spec, scale: str, records: Iterable[Record]) -> Figure | None:
    """For each claim that compares rows: the paired difference along the run, first row less second, mean and band over seeds.

    None when no metric of a claim has validation curves. A pair that two claims share is drawn once.
    """
    results = Results(spec, scale, list(records))
    drawn: list[tuple[int, Claim, str, list[Line]]] = []
    seen: set[tuple] = set()
    for number, claim in enumerate(spec.claims, 1):
        pairs = [(b, a) for a, b in pairwise(claim.rows)] if claim.kind == "monotone" else [tuple(claim.rows[:2])]
        for key in claim.metrics if len(claim.rows) > 1 and claim.kind not in ("agrees", "rising") else ():
            new = [pair for pair in pairs if (*pair, key) not in seen]
            lines = [line for a, b in new if (line := _gap(results, a, b, key))]
            seen |= {(*pair, key) for pair in new}
            if lines:
                drawn.append((number, claim, key, lines))
    if not drawn:
        return None
    figure, places = _columns(
        len(drawn), [*(name for *_, lines in drawn for name, *_ in lines if len(lines) > 1), "no effect: ±0.01"]
    )
    most = max(line[1][-1] for *_, lines in drawn for line in lines)
    for axes, (number, claim, key, lines) in zip(places, drawn):
        metric = metric_of(spec, key)
        better = "below" if metric.direction == "lower" else "above"
        pair = lines[0][0].replace("\n", " ") if len(lines) == 1 else "each against the one before"
        _head(axes, f"Claim {number}: {pair}", f"first − second, {metric.label}; {better} 0 the first is better")
        names = [(line[0] if len(lines) > 1 else "", line[2][-1], _colour(i)) for i, line in enumerate(lines)]
        if claim.margin:
            axes.axhspan(-claim.margin, claim.margin, color="#d9d9d9", alpha=0.6, linewidth=0, zorder=0.5)
            names.append((f"{'allowed' if claim.kind == 'within' else 'no effect'}: ±{claim.margin:g}", 0.0, GREY))
        axes.axhline(0, color="black", linewidth=0.8)
        for i, line in enumerate(lines):
            _band(axes, line, i)
        axes.set_xlim(0, 1.04 * most)
        _in_units(axes, most, "training tokens" if axes is places[-1] else "")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
        axes.yaxis.set_major_locator(_ticks())
        _names(axes, names)
    return figure


@_styled
def panels(spec: Spec, scale: str, records: Iterable[Record]) -> Figure | None:
    """The figure of the spec: `y` of every row against its x, a curve per `line`, and the paper's in a panel of its own.

    A panel without records says so. None when neither we nor the paper have anything to draw.
    """
    results = Results(spec, scale, list(records))
    rows = {name: row for name, row in spec.runs.items() if row.x is not None}
    names = list(dict.fromkeys(row.line for row in rows.values()))
    drawn: list[tuple[Panel, bool, dict[str, list]]] = []
    for panel in spec.panels:
        if panel.ys or panel.along:
            drawn.append((panel, False, _measured_curves(panel, results) if panel.ys else _along(panel, results)))
            continue
        ours = {name: [] for name in names}
        papers = {name: [] for name in names}
        for name, row in rows.items():
            if (name, panel.y) in results.cells and not results.is_reference(name, panel.y):
                x = spec.scales[scale].x.get(name, row.x)
                ours[row.line].append((x, *interval(results.cells[name, panel.y], metric_of(spec, panel.y).error)))
            if panel.paper and (value := paper_value(spec, name, panel.paper)) is not None:
                papers[row.line].append((row.paper.x or row.x, value, None))
        drawn.append((panel, False, ours))
        if any(papers.values()):
            drawn.append((panel, True, papers))
    if not any(points for *_, lines in drawn for points in lines.values()):
        return None
    named = [[name for name in lines if lines[name]] for *_, lines in drawn]
    stack = max(sum(LINE * len(_wrapped(name).split("\n")) + APART for name in each) for each in named)
    figure, places = _columns(len(drawn), dict.fromkeys(name for each in named for name in each), stack)
    for axes, (panel, is_paper, lines) in zip(places, drawn):
        if is_paper:
            _head(axes, f"Paper: {spec.source.item}, arXiv:{spec.source.arxiv}", panel.paper_ylabel or panel.ylabel)
        else:
            _head(axes, panel.title, panel.ylabel, f"measured, {_seeds(results)}" if any(lines.values()) else "")
        axes.set_xlabel((is_paper and panel.paper_xlabel) or panel.xlabel)
        _curves(axes, panel, panel.paper if is_paper else panel.y, lines, results)
        if panel.along and (xs := [x for points in lines.values() for x, *_ in points]):
            _in_units(axes, max(xs), panel.xlabel)
    return figure


def _measured_curves(panel: Panel, results: Results) -> dict[str, list]:
    """`ys` against `xs`: row's label -> [(mean x, mean y, half-width), …]; rows of other such panels too, so that each keeps its
    colour."""
    curves: dict[str, list] = {}
    keys = [key for each in results.spec.panels for key in each.ys]
    for name, row in results.spec.runs.items():
        if not any((name, key) in results.cells for key in keys):
            continue
        pairs = [(results.cells.get((name, x)), results.cells.get((name, y)), y) for x, y in zip(panel.xs, panel.ys)]
        points = [(interval(x, 0)[0], *interval(y, metric_of(results.spec, key).error)) for x, y, key in pairs if x and y]
        curves[row.label] = points
    return curves


def _along(panel: Panel, results: Results) -> dict[str, list]:
    """Row's label -> [(what training took so far, mean of `y` over the seeds, half-width), …] at each validation.

    What a token takes is the same all along a run, so the axis is the tokens times the run's total of it, by its tokens.
    """
    curves: dict[str, list] = {}
    for name, row in results.spec.runs.items():
        found, key = results.curves.get((name, panel.y), {}), panel.along
        spent = {seed: value for seed in found if (value := results.found[name][seed].value(key))}  # times of quiet runs alone
        curves[row.label] = []  # it keeps its colour in the other panels
        if not spent or (panel.rows and name not in panel.rows):
            continue
        each = mean(value / results.found[name][seed].tokens for seed, value in spent.items())
        series = [dict(curve) for curve in found.values()]
        tokens = sorted(set.intersection(*(set(curve) for curve in series)))
        curves[row.label] = [(t * each, *interval({i: s[t] for i, s in enumerate(series)}, None)) for t in tokens]
    return curves


@_styled
def save_svg(figure: Figure, file: str | Path | BinaryIO) -> None:
    """Write the figure as SVG: no date, no fonts that the reader's machine must have, the same bytes every time."""
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _gap(results: Results, a: str, b: str, key: str) -> Line | None:
    """The paired difference of two rows along the run, over the seeds and at the tokens that all their curves have."""
    first, second = results.curves.get((a, key), {}), results.curves.get((b, key), {})
    pairs = [(dict(first[seed]), dict(second[seed])) for seed in sorted(first.keys() & second.keys())]
    tokens = sorted(set.intersection(*(x.keys() & y.keys() for x, y in pairs))) if pairs else []
    if not tokens:
        return None
    points = [interval({i: x[t] - y[t] for i, (x, y) in enumerate(pairs)}, None) for t in tokens]
    label = f"{results.spec.runs[a].label}\nagainst {results.spec.runs[b].label}"
    return label, tokens, [centre for centre, _ in points], [half for _, half in points]


def _curves(axes: Axes, panel: Panel, key: str, lines: dict[str, list], results: Results) -> None:
    """One panel of the figure: a curve per line, and the row that the others are compared with as a level."""
    ticks = sorted({x for points in lines.values() for x, *_ in points})
    if not ticks:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no record yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
        return
    if panel.log:
        axes.set_xscale("log")
        edge = max(1.1, (ticks[-1] / ticks[0]) ** 0.05)
        axes.set_xlim(ticks[0] / edge, ticks[-1] * edge)
    level = reference(key)
    ends = []
    if level is not None:
        axes.axhline(level, color="black", linewidth=0.8)
        against = {row.line for name, row in results.spec.runs.items() if results.is_reference(name, key)}
        ends += [(against.pop() if len(against) == 1 else "", level, "black")]
    for i, (name, points) in enumerate(lines.items()):
        if points:
            x, y, half = map(list, zip(*sorted(points)))
            bars = [h or 0.0 for h in half] if any(half) else None
            every = max(1, len(x) // 8)  # so many markers tell the lines apart; more would cover them
            look = {"color": _colour(i), "linestyle": DASHES[i % len(DASHES)], "marker": MARKERS[i % len(MARKERS)]}
            axes.errorbar(x, y, bars, **look, markevery=every)
            ends.append((name, y[-1], _colour(i)))
    axes.xaxis.set_major_locator(_ticks() if panel.ys or panel.along else FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    axes.yaxis.set_major_locator(_ticks())
    _names(axes, ends)


def _band(axes: Axes, line: Line, i: int) -> None:
    """Mean and 95 % band; one seed has no band."""
    _, x, y, half = line
    if all(h is not None for h in half):
        low, high = [a - h for a, h in zip(y, half)], [a + h for a, h in zip(y, half)]
        axes.fill_between(x, low, high, color=_colour(i), alpha=0.18, linewidth=0)
    axes.plot(x, y, color=_colour(i), linestyle=DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)])


def _columns(count: int, names: Iterable[str], stack: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A white figure with so many panels of equal size below each other, and room for these names at their right, of which those
    of one panel need `stack` inches at most."""
    right = 0.15 + LETTER * max((len(line) for name in names for line in _wrapped(name).split("\n")), default=0)
    height = max(HEIGHT, stack - BOTTOM / 2)
    each = TOP + height + BOTTOM
    figure = Figure(figsize=(WIDTH, each * count))
    wide, high = (WIDTH - LEFT - right) / WIDTH, height / each / count
    return figure, [figure.add_axes((LEFT / WIDTH, 1 - (i + (TOP + height) / each) / count, wide, high)) for i in range(count)]


def _head(axes: Axes, bold: str, plain: str, right: str = "") -> None:
    """Two lines above a panel, from the figure's left edge, and a word at its right edge."""
    small = min(1.0, TITLE / (len(bold) + len(right))) * matplotlib.rcParams["font.size"]  # a long title fits, too
    first, second = (bold, 0, (5, 21), {"fontweight": "bold", "fontsize": small}), (plain, 0, (5, 8), {"color": GREY})
    for text, edge, offset, about in (first, second, (right, 1, (-5, 21), {"color": GREY, "ha": "right"})):
        axes.annotate(_unbroken(text), (edge, 1), offset, ("figure fraction", "axes fraction"), "offset points", **about)


def _names(axes: Axes, ends: list[tuple[str, float, str]]) -> None:
    """Names of the lines at their right ends, moved apart where they would touch."""
    low, high = axes.get_ylim()
    texts = [(_wrapped(name), (y - low) / (high - low), colour) for name, y, colour in ends if name]
    texts.sort(key=lambda end: end[1])
    inches = axes.get_position().height * axes.figure.get_figheight()
    heights = [LINE * (1 + text.count("\n")) / inches for text, *_ in texts]
    places = [y for _, y, _ in texts]
    for _ in range(100):  # a few rounds of pushing neighbours apart settle it
        for i, (below, above) in enumerate(pairwise(heights)):
            overlap = (below + above) / 2 + APART / inches - (places[i + 1] - places[i])
            if overlap > 0:
                places[i], places[i + 1] = places[i] - overlap / 2, places[i + 1] + overlap / 2
    if not places:
        return
    down = max(0.0, places[-1] + heights[-1] / 2 - 1.08)
    up = max(0.0, heights[0] / 2 - (places[0] - down) - BOTTOM / 2 / inches)  # the lowest stays above the next panel, or the edge
    for (text, _, colour), y in zip(texts, places):
        axes.text(1.03, y - down + up, text, color=colour, transform=axes.transAxes, va="center", linespacing=1.05)


def _in_units(axes: Axes, most: float, label: str) -> None:
    """The horizontal axis of large numbers, all in one unit."""
    size, unit = next(((size, f", {unit}") for size, unit in UNITS if most >= size), (1.0, ""))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:g}"))
    axes.xaxis.set_major_locator(_ticks())
    axes.set_xlabel(f"{label}{unit}" if label else "")


def _ticks() -> MaxNLocator:
    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _seeds(results: Results) -> str:
    counts = sorted({len(found) for found in results.found.values()})
    return f"{' to '.join(map(str, sorted({counts[0], counts[-1]})))} seed{'s' * (counts[-1] != 1)}"


def _number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def _wrapped(name: str) -> str:
    return "\n".join(part for line in _unbroken(name).split("\n") for part in textwrap.wrap(line, NAME))


def _unbroken(text: str) -> str:
    """`n = 4` stays in one line."""
    return text.replace(" = ", "\u00a0=\u00a0")

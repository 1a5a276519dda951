"""A TensorBoard over the arms of one spec: `python -m benchmarks.board table-mtp-1 --scale desk` (`make board SPEC=… SCALE=…`).

It is made from records alone, so it works in a fresh clone: a run per arm, its validation values against tokens as the mean over
seeds with its 95 % band, and each seed; one run for the claims, with the paired gaps; the page and its figures.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from benchmarks import record, report
from benchmarks.cells import Results, interval
from benchmarks.live import drawn
from benchmarks.record import Record
from benchmarks.spec import ROOT, Spec, load

BAND = ("mean", "low", "high")


def write(spec: Spec, scale: str, records: list[Record], folder: Path) -> int:
    """Write the event files of the dashboard into the folder, anew; returns the number of arms that have a curve."""
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    results = Results(spec, scale, records)
    arms = {spec.runs[row].label: [r.curve for r in found.values() if r.curve] for row, found in results.found.items()}
    arms = {label: curves for label, curves in arms.items() if curves}
    for label, curves in arms.items():
        with SummaryWriter(folder / _file(label)) as writer:
            for name in curves[0]:
                _band(writer, name.removeprefix("val/"), [curve[name] for curve in curves if name in curve])
    with SummaryWriter(folder / "claims") as writer:
        for claim, verdict in zip(spec.claims, results.verdicts):
            writer.add_text("verdicts", f"**{verdict.word}**: {claim.sentence}  {verdict.sentence}")
        for tag, curves in _gaps(results).items():
            _band(writer, tag, curves)
        writer.add_text("page", report.page(spec, scale, records))
        for name, figure in drawn(spec.name, scale, records):
            writer.add_figure(f"page/{name}", figure)
        parts = list(dict.fromkeys(name.removeprefix("val/") for curves in arms.values() for name in curves[0]))
        writer.add_custom_scalars(_layout(parts, list(_gaps(results))))
    return len(arms)


def _layout(parts: list[str], gaps: list[str]) -> dict:
    """Bands over tokens, all arms in one chart, bits per byte first; then the seeds; then the claims."""
    first = ["bits_per_byte", "next"]
    parts = [*(p for p in first if p in parts), *(p for p in parts if p not in first)]
    band = lambda tag: ["Margin", [f"{tag}/{edge}" for edge in BAND]]
    parts = parts[::-1]  # TensorBoard shows the charts of a category from the last to the first
    return {
        "Arms: mean over seeds and its 95 % band, against tokens": {part: band(part) for part in parts},
        "Arms: every seed": {part: ["Multiline", [f"^{part}/seed"]] for part in parts[-2:]},
        "Claims: paired gap (below 0 the first is lower)": {tag: band(tag) for tag in gaps[::-1]},
    }


def _gaps(results: Results) -> dict[str, list[list]]:
    """`gap/<first> - <second>: <metric>` -> a curve per seed, for each pair of rows that a claim compares."""
    found = {}
    for claim in results.spec.claims:
        pairs_of_rows = [(b, a) if claim.kind == "monotone" else (a, b) for a, b in pairwise(claim.rows)]  # as the page's plots
        for a, b in pairs_of_rows if claim.kind not in ("agrees", "rising") else ():
            for key in claim.metrics:
                ours, theirs = results.curves.get((a, key), {}), results.curves.get((b, key), {})
                pairs = [(dict(ours[seed]), dict(theirs[seed])) for seed in ours if seed in theirs]
                if pairs:
                    tag = f"gap/{a} - {b}: {key.removeprefix('test/')}"
                    found[tag] = [[(t, x[t] - y[t]) for t in x if t in y] for x, y in pairs]
    return found


def _band(writer, tag: str, curves: list[list]) -> None:
    """Mean, low and high of the curves at the tokens that all have, and each curve."""
    series = [dict(map(tuple, curve)) for curve in curves]
    for tokens in sorted(set.intersection(*(set(curve) for curve in series))):
        values = {seed: curve[tokens] for seed, curve in enumerate(series)}
        centre, half = interval(values, None)
        for edge, value in zip(BAND, (centre, centre - (half or 0.0), centre + (half or 0.0))):
            writer.add_scalar(f"{tag}/{edge}", value, int(tokens))
        for seed, value in values.items():
            writer.add_scalar(f"{tag}/seed {seed}", value, int(tokens))


def _file(label: str) -> str:
    return "".join(c if c.isalnum() or c in " ,=.-_" else "_" for c in label)


def main(args: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.board", description=__doc__.splitlines()[0])
    parser.add_argument("spec", help="name of a file in benchmarks/specs, without .yaml")
    parser.add_argument("--scale", default="desk", help="whose records (default: %(default)s)")
    parser.add_argument("--write-only", action="store_true", help="do not start TensorBoard")
    given = parser.parse_args(args)
    try:
        spec = load(given.spec)
        records, complaints = record.load(record.folder(given.scale))
        print(*complaints, sep="\n", end="\n" if complaints else "")
        folder = ROOT / "runs" / "boards" / f"{spec.name}-{given.scale}"
        arms = write(spec, given.scale, records, folder)
    except (ValueError, FileNotFoundError) as error:
        print(f"benchmarks.board: {error}", file=sys.stderr)
        return 2
    if not arms:
        print(f"benchmarks.board: no run of {spec.name} at scale {given.scale} has a record with a curve yet: "
              f"make reproduce-{spec.name} SCALE={given.scale}", file=sys.stderr)  # fmt: skip
        return 1
    print(f"{arms} arms in {folder.relative_to(ROOT)}")
    if given.write_only:
        return 0
    return subprocess.call([sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)])


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.bench [--quick]`: our speed and memory beside their anchors, each against its target.

The measuring is in bench_nets.py and bench_data.py; each `main(quick)` returns rows {name, ours, anchor, ratio, target, unit, ok}.
"""

import argparse
import json

from benchmarks.report import table
from benchmarks.spec import ROOT


def cells(row: dict) -> list[str]:
    """One row of the table; `ratio` and `target` are in the terms of the row's name, `unit` is that of ours and anchor."""
    ours, anchor = (f"{row[key]:,.4g} {row['unit']}" if isinstance(row[key], (int, float)) else str(row[key] or "—") for key in ("ours", "anchor"))
    ratio = f"{row['ratio']:.3g}" if row["ratio"] is not None else "—"
    return [row["name"], ours, anchor, ratio, str(row["target"]), "yes" if row["ok"] else "no"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds: shows that it works, not how fast it is")
    quick = parser.parse_args().quick
    from benchmarks import bench_data, bench_nets

    rows = bench_nets.main(quick) + bench_data.main(quick)
    print(*table(["name", "ours", "anchor", "ratio", "target", "met"], [cells(row) for row in rows]), sep="\n")
    path = ROOT / "runs" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))
    print(f"saved: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

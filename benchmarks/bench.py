"""`python -m benchmarks.bench [--quick]`: our speed and memory beside their anchors, each against its target.

bench_nets.py, bench_cocomix.py, bench_decode.py, bench_data.py, bench_sonar.py and bench_lcm.py measure: `main(quick)` of each
returns rows {name, ours, anchor, ratio, target, unit, ok}.
"""

import argparse
import json

from benchmarks.report import table
from benchmarks.spec import ROOT


def cells(row: dict) -> list[str]:
    """One line of the table; without an anchor (None) or a target (empty) it says —."""
    numbers = [_number(row["ours"], row["unit"]), _number(row["anchor"], row["unit"]), _number(row["ratio"])]
    met = ("yes" if row["ok"] else "no") if row["target"] else "—"
    return [row["name"], *numbers, row["target"] or "—", met]


def _number(value: float | None, unit: str = "") -> str:
    return "—" if value is None else f"{value:,.4g} {unit}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, few rounds: that it works, not how fast")
    quick = parser.parse_args().quick
    from benchmarks import bench_cocomix, bench_data, bench_decode, bench_lcm, bench_nets, bench_sonar

    parts = (bench_nets, bench_cocomix, bench_decode, bench_data, bench_sonar, bench_lcm)
    rows = [row for each in parts for row in each.main(quick)]
    print(*table(["name", "ours", "anchor", "ratio", "target", "met"], [cells(row) for row in rows]), sep="\n")
    path = ROOT / "runs" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))
    print(f"saved: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

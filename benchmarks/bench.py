"""`python -m benchmarks.bench [PART ...] [--quick | --keep]`: our speed and memory beside their anchors, each against its target.

bench_nets.py, bench_cocomix.py, bench_decode.py, bench_data.py, bench_sonar.py and bench_lcm.py measure: `main(quick)` of each
returns rows {name, ours, anchor, ratio, target, unit, ok}.
"""

import argparse
import importlib
import json

from benchmarks import speed
from benchmarks.page import table
from benchmarks.spec import ROOT

PARTS = ("nets", "cocomix", "decode", "data", "sonar", "lcm")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--quick", action="store_true", help="small shapes, few rounds: that it works, not how fast")
    way.add_argument("--keep", action="store_true", help="keep what is found in benchmarks/speed, for its page")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    found = {}
    for part in given.parts or PARTS:
        found[part] = importlib.import_module(f"benchmarks.bench_{part}").main(given.quick)
        if given.keep:  # as it comes: a later part may fail
            print(f"kept: {speed.keep(part, found[part], _device())}")
    rows = [row for each in found.values() for row in each]
    print(*table(speed.HEAD, [speed.cells(row) for row in rows]), sep="\n")
    path = ROOT / "runs" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))
    print(f"saved: {path.relative_to(ROOT)}")


def _device() -> str:
    import torch

    from benchmarks.child import device_name

    return device_name(torch.device("cpu"))


if __name__ == "__main__":
    main()

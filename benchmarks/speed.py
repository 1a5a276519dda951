"""What parts of `make bench` measured, kept as records: benchmarks/speed/<part>.json, and the page of them all."""

import json

from benchmarks import record
from benchmarks.page import NONE, table
from benchmarks.spec import ROOT

FOLDER = ROOT / "benchmarks" / "speed"
HEAD = ["name", "ours", "anchor", "ratio", "target", "met"]


def keep(part: str, rows: list[dict], device: str) -> str:
    """Write the record of a part, which replaces its last one; its place, from the root."""
    about = {key: value for key, value in record.provenance().items() if key in ("commit", "dirty", "versions", "date")}
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{part}.json"
    path.write_text(json.dumps(about | {"device": device, "rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return str(path.relative_to(ROOT))


def page() -> str:
    """Every kept part as a table, with machine, date and commit; empty where there is none."""
    lines = [
        "# Speed and memory",
        "",
        "Measured on a quiet machine, ours and its anchor side by side. A ratio above 1 is in our favour, but for costs and",
        "memory, whose targets are at most so much. `make bench` measures all of it anew; `make bench PART=cocomix KEEP=1`",
        "measures a part and keeps it here.",
    ]
    kept = sorted(FOLDER.glob("*.json"))
    for path in kept:
        found = json.loads(path.read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
        commit = (found["commit"] or "unknown")[:10] + (", and changes" if found["dirty"] else "")
        lines += ["", f"## {path.stem}", "", *table(HEAD, [cells(row) for row in found["rows"]]), ""]
        lines.append(f"{found['device']}; {found['date'][:10]}; commit {commit}; {versions}.")
    return "\n".join(lines) + "\n" if kept else ""


def cells(row: dict) -> list[str]:
    """One line of the table; without an anchor (None) or a target (empty) it says —."""
    numbers = [_number(row["ours"], row["unit"]), _number(row["anchor"], row["unit"]), _number(row["ratio"])]
    met = ("yes" if row["ok"] else "no") if row["target"] else NONE
    return [row["name"], *numbers, row["target"] or NONE, met]


def _number(value: float | None, unit: str = "") -> str:
    return NONE if value is None else f"{value:,.4g} {unit}".strip()

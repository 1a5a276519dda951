"""Records and spec in, one markdown page out. `python -m benchmarks.report` rewrites the committed pages.

A cell comes from records or prints "—"; the paper's numbers stand in columns of their own.
Pages of smoke and laptop runs go to runs/pages, those of the other scales to benchmarks/pages.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

from benchmarks import record
from benchmarks.record import Record
from benchmarks.spec import ROOT, SPECS, Metric, Row, Run, Spec, expand, load

COMMITTED_SCALE = "desk"


def page(spec: Spec, scale: str, records: Iterable[Record]) -> str:
    """The whole page of a spec at one scale: a pure function of its arguments and of the recipe's files."""
    runs, records = expand(spec, scale), list(records)
    rows = _measured(runs, records)
    head = ["row"]
    for metric in spec.metrics:
        head += [metric.label] + (["paper"] if _printed(spec, metric) else [])
    body = []
    for name, row in spec.runs.items():
        cells = [row.label]
        for metric in spec.metrics:
            cells += [ours(metric, rows[name])] + ([papers(metric, row)] if _printed(spec, metric) else [])
        body.append(cells)
    lines = [
        f"# {spec.title}",
        "",
        f"Beside {spec.source.item} of [arXiv:{spec.source.arxiv}](https://arxiv.org/abs/{spec.source.arxiv}); "
        f"scale **{scale}**. A cell without a record is “—”; the paper's numbers are in the columns headed *paper*.",
        *([spec.scales[scale].note] if spec.scales[scale].note else []),
        "",
        *table(head, body),
        "",
        *_facts(spec, scale, rows),
        "",
        "## Rows",
        *(_row_line(spec.runs[name], name, runs, rows[name], records) for name in spec.runs),
        "",
        "## What the paper claims",
        "No verdict is drawn yet.",
        *(f"- {claim.sentence}" for claim in spec.claims),
        "",
        "## Commands",
        "```",
        f"python -m benchmarks.run {spec.name} --scale {scale}",
        *(run.command for run in runs if run.seed == runs[0].seed),
        "```",
    ]
    return "\n".join(lines) + "\n"


def summary(spec: Spec, scale: str, records: Iterable[Record]) -> str:
    """The measured columns alone, narrow enough for a terminal; columns nobody has measured are named below it."""
    rows = _measured(expand(spec, scale), list(records))
    shown = [m for m in spec.metrics if any(ours(m, found) != "—" for found in rows.values())]
    if not shown:
        return "No run has a record yet."
    body = [[row.label, *(ours(m, rows[name]) for m in shown)] for name, row in spec.runs.items()]
    lines = table(["row", *(m.label for m in shown)], body)
    missing = [m.label for m in spec.metrics if m not in shown]
    return "\n".join([*lines, *([f"—: {'; '.join(missing)}"] if missing else [])])


def ours(metric: Metric, records: list[Record]) -> str:
    """A cell: mean over the records, ± their standard deviation when there are several; "—" where no record has a value.

    The keys of a column are joined by strokes; keys after the last that has a value are left out (heads a net does not have).
    """
    texts = []
    for key in metric.keys:
        values = [value for r in records if (value := r.value(key)) is not None]
        spread = f" ± {_number(stdev(values), metric.digits)}" if len(values) > 1 else ""
        texts.append(_number(mean(values), metric.digits) + spread if values else "—")
    while len(texts) > 1 and texts[-1] == "—":
        texts.pop()
    return "/".join(texts)


def papers(metric: Metric, row: Row) -> str:
    """The paper's cell, "—" where it printed none."""
    cells = row.paper.cells if row.paper else {}
    texts = [_number(cells[key], metric.digits) if key in cells else "—" for key in metric.keys]
    return "/".join(texts) if any(key in cells for key in metric.keys) else "—"


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """Lines of a markdown table with padded columns, so that it reads in a terminal too."""
    widths = [max(map(len, column)) for column in zip(head, *body)]
    rule = ["-" * width for width in widths]
    return ["| " + " | ".join(cell.ljust(w) for cell, w in zip(cells, widths)) + " |" for cells in (head, rule, *body)]


def place(spec: Spec, scale: str) -> Path:
    """Where the page of this spec and scale lives; the one without a scale in its name is that of the committed results."""
    folder = ROOT / ("runs" if scale in record.OWN_SCALES else "benchmarks") / "pages"
    return folder / (f"{spec.name}.md" if scale == COMMITTED_SCALE else f"{spec.name}-{scale}.md")


def write(spec: Spec, scale: str, records: Iterable[Record]) -> Path:
    """Write the page and return where it lies."""
    path = place(spec, scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(spec, scale, records), encoding="utf-8")
    return path


def _measured(runs: list[Run], records: list[Record]) -> dict[str, list[Record]]:
    """Row -> the newest ok record of each of its seeds."""
    done = record.finished(records)
    rows: dict[str, list[Record]] = defaultdict(list)
    for run in runs:
        if (found := done.get(run.key)) is not None:
            rows[run.row].append(found)
    return rows


def _printed(spec: Spec, metric: Metric) -> bool:
    return any(row.paper and key in row.paper.cells for row in spec.runs.values() for key in metric.keys)


def _facts(spec: Spec, scale: str, rows: dict[str, list[Record]]) -> list[str]:
    """What the records share: seeds, data, device, versions, commit, dates."""
    found = [r for row in rows.values() for r in row]
    if not found:
        return ["No run of this scale has a record yet."]
    seeds, dates = spec.scales[scale].seeds, sorted(r.date[:10] for r in found)
    data: dict[str, set] = {}
    for r in found:
        data.setdefault(r.data["description"], set()).add(r.data["fingerprint"][:12])
    commits = {(r.commit or "no commit")[:10] + (" with uncommitted changes" if r.dirty else "") for r in found}
    facts = {
        "Seeds": ", ".join(map(str, seeds)) + ("; ± is the standard deviation over seeds" if len(seeds) > 1 else ""),
        "Data": "; ".join(f"{text} (with tokenizer: {', '.join(sorted(prints))})" for text, prints in sorted(data.items())),
        "Device": "; ".join(sorted({r.device for r in found})),
        "Versions": "; ".join(sorted({", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in found})),
        "Commit": "; ".join(sorted(commits)),
        "Measured": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
    }
    return [f"- {name}: {text}" for name, text in facts.items()]


def _row_line(row: Row, name: str, runs: list[Run], found: list[Record], records: list[Record]) -> str:
    """One row in words: size and budget here, the paper's place, and what failed."""
    mine = [run for run in runs if run.row == name]
    parts = [f"- **{row.label}** (`{name}`)"]
    if found:
        r = found[-1]
        parts.append(f"here {r.parameters:,} parameters, {r.tokens:,} tokens, {r.flops:.2g} FLOPs, {r.seconds:.0f} s")
    parts.append(f"{len(found)} of {len(mine)} seeds have a record")
    if row.paper:
        parts.append(f"the paper's cells: {row.paper.place}")
    keys = {run.key for run in mine} - {r.key for r in found}
    parts += [f"seed {r.seed} failed: {r.error}" for r in {r.key: r for r in records if r.key in keys}.values()]
    return "; ".join(parts) + "."


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def main() -> None:
    records, complaints = record.load(record.folder(COMMITTED_SCALE))
    for line in complaints:
        print(line)
    for path in sorted(SPECS.glob("*.yaml")):
        print(write(load(path), COMMITTED_SCALE, records).relative_to(ROOT))


if __name__ == "__main__":
    main()

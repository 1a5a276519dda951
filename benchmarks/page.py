"""Spec and records in, one markdown page out, or a short table for the terminal. Pure functions: nothing is written here.

A cell comes from records or prints "—"; the paper's numbers stand in columns of their own.
"""

import json
import math
import shlex
from collections.abc import Iterable

from benchmarks import record, replay
from benchmarks.cells import Results, interval, paper_value, reference, with_needs
from benchmarks.claims import in_words, number, word_of
from benchmarks.record import TIMES, Record
from benchmarks.spec import ROOT, Metric, Run, Spec
from benchmarks.verdict import NOT_MEASURED

NONE = "—"
FEW = 50  # held-out sentences of a length that say too little of a space
GLOSS = {  # of what is measured of nets that rows need
    "dead": "share of the latents that are never active",
    "explained_variance_first": "at the first place of a window",
    "explained_variance_last": "at the last one",
    "l0": "active latents of a place",
    "entropy": "of a label, in nats",
    "frequent": "share of the labels that the most frequent 1 % of the concepts are",
    "used": "concepts that are a label at least once",
    "without": "share of the labels that places could have and have not",
    "unselected_lately": "concepts that were not selected in the last quarter of the steps, %",
}
TOKENS = ("zoo.data.Code", "zoo.data.OpenWebText")  # data whose batches hold as many tokens as their settings say


def page(spec: Spec, scale: str, records: Iterable[Record], gaps: str | None = None, figure: str | None = None) -> str:
    """The whole page of a spec at one scale; `gaps` and `figure` are the file names of its plots, if it has any."""
    results = Results(spec, scale, list(records))
    sections = [
        [f"# {spec.title}"],
        _stale(results),
        _introduction(results),
        *([["## What the paper claims, and what was found here", "", *_judged(results)]] if spec.claims else []),
        *([[f"![{'; '.join(panel.title for panel in spec.panels)}]({figure})"]] if figure else []),
        ["## Table", "", *_tables(results)],
        _below(results),
        *([_gap_lines(gaps)] if gaps else []),
        *([["## How it was measured", "", *_facts(results)]] if results.used else []),
        ["## Rows", "", *(_row_line(results, name) for name in spec.runs)],
        _needs(results),
        _spaces(results),
        _failures(results),
        ["## Commands", "", *_commands(results)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def summary(spec: Spec, scale: str, records: Iterable[Record]) -> str:
    """The measured columns, narrow enough for a terminal, the names of the others, and the verdicts where there can be any."""
    results = Results(spec, scale, list(records))
    shown = [m for m in spec.metrics if _is_measured(results, m, spec.runs)]
    if not shown:
        return "No run has a record yet."
    rows = [name for name in spec.runs if name in {run.row for run in results.runs}]
    body = [[spec.runs[name].label, *(ours(results, m, name) for m in shown)] for name in rows]
    missing = [m.label for m in spec.metrics if m not in shown]
    lines = [*table(["row", *(m.label for m in shown)], body), *([f"{NONE}: {'; '.join(missing)}"] if missing else []), ""]
    if spec.claims and not _can_judge(spec, scale):
        return "\n".join([*lines, "No verdict at this scale."])
    judged = [f"{word_of(c, v.word)}: {c.sentence}" for c, v in zip(spec.claims, results.verdicts) if v.word != NOT_MEASURED]
    others = len(spec.claims) - len(judged)
    left = [f"not measured, or not judged at this scale: {others} more claims"] if others else []
    return "\n".join([*lines, *judged, *left]).rstrip()


def _judged(results: Results) -> list[str]:
    spec = results.spec
    if _can_judge(spec, results.scale):
        return in_words(results)
    return ["No verdict is drawn at this scale.", "", *(f"{i}. “{claim.sentence}”" for i, claim in enumerate(spec.claims, 1))]


def ours(results: Results, metric: Metric, row: str) -> str:
    """A cell: mean over seeds ± half-width of its 95 % interval; "—" where no record has a value.

    The keys of a column are joined by strokes and share the widest ±; keys after the last that has a value are left out (heads a
    net does not have). The row that others are compared with has `ratio(…)` 1 and `gap(…)` 0, exactly.
    """
    texts, halves = [], []
    for key in metric.keys:
        values = results.cells.get((row, key))
        if values and results.is_reference(row, key):
            texts.append(f"{reference(key):g}")
        elif values:
            centre, half = interval(values, metric.error)
            texts.append(number(centre, metric.digits))
            halves += [half] if half is not None else []
        else:
            texts.append(NONE)
    while len(texts) > 1 and texts[-1] == NONE:
        texts.pop()
    return "/".join(texts) + (f" ± {number(max(halves), metric.digits)}" if halves else "")


def papers(spec: Spec, metric: Metric, row: str) -> str:
    """The paper's cell, "—" where it printed none."""
    values = [paper_value(spec, row, key) for key in metric.keys]
    texts = [NONE if value is None else number(value, metric.digits) for value in values]
    return "/".join(texts) if any(value is not None for value in values) else NONE


def _tables(results: Results) -> list[str]:
    """One table; or two, where the rows of this scale have nothing of the paper's beside them and the paper's do not run here.

    A column that neither side has is left out, unless that would leave none.
    """
    spec, here = results.spec, {run.row for run in results.runs}
    apart = not any(row.paper for name, row in spec.runs.items() if name in here)
    groups = [[name for name in spec.runs if name in here], [name for name in spec.runs if name not in here]]
    lines: list[str] = []
    for names in [group for group in groups if group] if apart else [list(spec.runs)]:
        head, body = ["row"], [[spec.runs[name].label] for name in names]
        shown = [m for m in spec.metrics if _is_printed(spec, m, names) or _is_measured(results, m, names)]
        for metric in shown or spec.metrics:
            printed = _is_printed(spec, metric, names)
            head += [metric.label, *(["paper"] if printed else [])]
            for line, name in zip(body, names):
                line += [ours(results, metric, name), *([papers(spec, metric, name)] if printed else [])]
        lines += [*([""] if lines else []), *table(head, body)]
    return lines


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """Lines of a markdown table with padded columns, so that it reads in a terminal too."""
    widths = [max(map(len, column)) for column in zip(head, *body)]
    rule = ["-" * width for width in widths]
    return ["| " + " | ".join(cell.ljust(w) for cell, w in zip(cells, widths)) + " |" for cells in (head, rule, *body)]


def stale_files(results: Results) -> list[str]:
    """Files of zoo/ whose code changed since one of the page's records was made, and no replay says that its numbers hold."""
    return sorted({file for r in results.used for file in replay.stale(r)})


def _stale(results: Results) -> list[str]:
    """The notice at the top of a page whose records were made by other code than there is now."""
    all_, lines = len(results.used), []
    if names := ", ".join(f"`{file}`" for file in stale_files(results)):
        again = f"`make reproduce-{results.spec.name} SCALE={results.scale}` measures again what is stale."
        lines.append(
            f"**Stale: {_count(sum(bool(replay.stale(r)) for r in results.used), all_)} made before {names} changed.** {again}"
        )
    if vouched := [found for r in results.used if record.changed(r) and (found := replay.vouching(r))]:
        lines.append(
            f"**Replayed: {_count(len(vouched), all_)} made by earlier code.** By that code and by the present one the first "
            f"{min(each.steps for each in vouched)} training steps of these rows, a validation and a short test give the same "
            "numbers to the last digit. Times are of the earlier code."
        )
    return [line for each in lines for line in (each, "")][:-1]


def _count(some: int, all_: int) -> str:
    return (
        f"{some} of the {all_} records of this page {'was' if some == 1 else 'were'}"
        if all_ > 1
        else "the record of this page was"
    )


def _introduction(results: Results) -> list[str]:
    """What stands beside what, at which size, and what the numbers are not."""
    scale, source = results.spec.scales[results.scale], results.spec.source
    budget = _range(count for run in results.runs if (count := _budget(run, scale.devices)))
    lines = [
        f"Beside {source.item} of [arXiv:{source.arxiv}](https://arxiv.org/abs/{source.arxiv}). Scale **{results.scale}**"
        f"{f'; {budget} training tokens a run' if budget else ''}; seed{'s' * (len(scale.seeds) > 1)} {_listed(scale.seeds)}."
    ]
    done = sum(map(len, results.found.values()))
    if done:
        text = "; ".join(sorted({r.data["description"] for r in results.used}))
        size = _range(r.parameters for rows in results.found.values() for r in rows.values() if r.parameters)
        lines.append(f"Measured here: {f'nets with {size} parameters, on ' if size else ''}{text}.")
        lines += [f"**{done} of {len(results.runs)} runs so far.**"] if done < len(results.runs) else []
    else:
        needed = ", though nets that its runs need have one" if results.used else ""
        lines.append(f"No run of this scale has a record yet{needed}.")
    if any(_is_printed(results.spec, metric, results.spec.runs) for metric in results.spec.metrics):
        lines.append(
            "The columns headed *paper* are of the paper's own nets, text and budget: directions can be compared, levels cannot."
        )
    lines.append(f"A cell without a record is “{NONE}”.")
    return [" ".join(lines), *(["", scale.note.strip()] if scale.note else [])]


def _can_judge(spec: Spec, scale: str) -> bool:
    """Whether verdicts are drawn at this scale: not at a user's own, and from two seeds or an error stated beforehand."""
    if scale in record.OWN_SCALES:
        return False
    claimed = {key for claim in spec.claims for key in claim.metrics}
    return len(spec.scales[scale].seeds) > 1 or any(m.error is not None for m in spec.metrics if claimed & set(m.keys))


def _below(results: Results) -> list[str]:
    """What a reader of the table must know: what ± is, which times are left out, which rows do not run."""
    spec, notes = results.spec, []
    if results.found and len(spec.scales[results.scale].seeds) > 1:
        notes.append("± is the half-width of the 95 % interval over seeds (Student's t); numbers in one cell share the widest.")
    elif any(m.error for m in spec.metrics if _is_measured(results, m, spec.runs)):
        notes.append("± is the error stated beforehand for one measurement; numbers without ± are exact, or of one seed.")
    timed = any(time in key for m in spec.metrics for key in m.keys for time in TIMES)
    crowded = sum(not r.quiet for rows in results.found.values() for r in rows.values())
    if timed and crowded:
        notes.append(f"Times are left out of the {crowded} run{'s' * (crowded > 1)} that shared the machine with other work.")
    if results.strangers:
        names = ", ".join(sorted({f"`{r.run}`" for r in results.strangers}))
        notes.append(f"Left out: {len(results.strangers)} records ({names}) on other data than the newest; run them again.")
    savings = (cell for (_, key), cell in results.cells.items() if key.startswith("saving("))
    if any(value < 0 for cell in savings for value in cell.values()):
        notes.append("A share of tokens saved below 0 is what the other row could have done without to end where this one ends.")
    notes += _absent(results)
    return [f"- {note}" for note in notes]


def _absent(results: Results) -> list[str]:
    """Rows that do not run at this scale, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, row in results.spec.runs.items():
        if name not in {run.row for run in results.runs}:
            reasons.setdefault(row.why, []).append(row.label)
    lines = []
    for why, labels in reasons.items():
        rows = "; ".join(labels) if len(labels) < 5 else f"{len(labels)} rows, {labels[0]} to {labels[-1]}"
        lines.append(f"Not run at this scale: {rows}{f' ({why})' if why else ''}.")
    return lines


def _gap_lines(gaps: str) -> list[str]:
    return [
        "## The differences along the training",
        "",
        f"![Differences of validation values against training tokens, with 95 % bands over seeds]({gaps})",
        "",
        "Validation values of the first row less those of the second, paired by seed; band: 95 % interval over seeds.",
    ]


def _facts(results: Results) -> list[str]:
    """What the records share: data, device, versions, commit, dates."""
    found = results.used
    dates = sorted(r.date[:10] for r in found)
    data: dict[str, set] = {}
    for r in found:
        data.setdefault(r.data["description"], set()).add(r.data["fingerprint"][:12])
    commits = {(r.commit or "no commit")[:10] + (" with uncommitted changes" if r.dirty else "") for r in found}
    facts = {
        "Data": "; ".join(f"{text} (with tokenizer: {_listed(sorted(prints))})" for text, prints in sorted(data.items())),
        "Read": _passes([r.epochs for r in found if r.tokens]),
        "Device": "; ".join(sorted({r.device for r in found})),
        "Versions": "; ".join(sorted({_listed(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in found})),
        "Commit": "; ".join(sorted(commits)),
        "Measured": dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}",
    }
    return [f"- {name}: {text}" for name, text in facts.items() if text]


def _passes(epochs: list[float]) -> str:
    """How often a run reads the training text; nothing when it is next to none of it."""
    low, high = min(epochs, default=0.0), max(epochs, default=0.0)
    if high <= 0.01:
        return ""
    span = f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"
    return f"each run reads {span} of the training text" if high < 1 else f"each run makes {span} passes over the training text"


def _row_line(results: Results, name: str) -> str:
    """One row in words: size and budget, and where the paper's cells are."""
    row, found = results.spec.runs[name], list(results.found.get(name, {}).values())
    asked = sum(run.row == name for run in results.runs)
    parts = [f"{len(found)} of {asked} seed{'s' * (asked != 1)} recorded"] if asked else []
    if found:
        time = _range(r.seconds for r in found if r.quiet)
        sizes = f"{_range(r.parameters for r in found)} parameters, {_range(r.tokens for r in found)} tokens"
        trained = f"{sizes}, {found[-1].flops:.2g} FLOPs{f', {time} s' if time else ''}"
        size = _range(r.parameters for r in found if r.parameters)
        nothing = f"{size} parameters, measured as they are" if size else "no net is trained"
        parts.append(trained if any(r.tokens for r in found) else nothing)
    if row.paper:
        parts.append(f"paper: {row.paper.place}")
    return f"- **{row.label}** (`{name}`): {'; '.join(parts) or 'not run at this scale'}."


def _needs(results: Results) -> list[str]:
    """What was measured of nets, autoencoders and labels that rows needed."""
    lines, gloss = [], set()
    for r in results.needed:
        told = {key.removeprefix("test/"): value for key, value in r.metrics.items()}
        found = ", ".join(f"{key} {value:.4g}" for key, value in told.items() if not key.startswith("norm_"))  # a whole histogram
        lines.append(f"- `{r.run}`, seed {r.seed}: {found or 'made'}.")
        gloss |= told.keys() & GLOSS.keys()
    told = [f"`{key}`: {words}" for key, words in GLOSS.items() if key in gloss]
    return ["## What they needed", "", *lines, *(["", "; ".join(told) + "."] if told else [])] if lines else []


def _spaces(results: Results) -> list[str]:
    """How well sentences come back from the spaces that runs are given: by text, by length in characters, and with noise."""
    lines = []
    for folder in sorted({folder for run in results.runs for each in (run, *run.needs) for folder in each.given}):
        if (path := ROOT / folder / "about.json").is_file():
            about = json.loads(path.read_text(encoding="utf-8"))
            scores = {"all of them": about["measured"], "all, decoded with beam 5": about["beam5"], **about["by_source"]}
            shown = [key for key in about["measured"] if key.startswith(("autobleu", "exact_"))]
            shown.sort(key=lambda key: key != "autobleu")  # what a space is judged by comes first
            body = []
            for text, found in scores.items():
                counts = about["scored"][text if text in about["by_source"] else "all"]
                told = {key for key in found if counts.get(_edge(key), FEW) >= FEW}  # a pooled score has all lengths
                body.append([text, *(number(found[key], 1) if key in told else NONE for key in shown)])
            lines += [
                f"`{folder}`: {about['parameters']:,} parameters, trained on {about['text']}. Of held-out sentences, in percent: "
                "AutoBLEU up to 60 characters (each length as often as in the text); AutoBLEU and exact round trips up to so "
                "many characters (above the number before); @: with normal noise of so many deviations of each dimension; “—”: "
                f"of fewer than {FEW} sentences.",
                "",
                *table(["held-out sentences of", *shown], body),
            ]
    return ["## The space that it stands on", "", *lines] if lines else []


def _edge(key: str) -> str:
    """The length in a score's name: autobleu_60@0.1 -> 60."""
    return key.partition("@")[0].rpartition("_")[2]


def _failures(results: Results) -> list[str]:
    lines = [f"- `{r.run}`, seed {r.seed}, {r.date[:10]}: {r.error.rstrip('.')}." for r in results.failed]
    return ["## Failed runs", "", *lines] if lines else []


def _commands(results: Results) -> list[str]:
    """The sweep, then, folded, every row with its first seed, each behind what it needs, once each."""
    first = [run for run in results.runs if run.seed == results.runs[0].seed]
    needs = {need.name: need.key for run in first for need in with_needs(run.needs)}
    commands: dict[str, None] = {}
    for run in with_needs(first):
        if run.name in needs and not run.verb:  # where those that need it look for what it leaves
            commands[shlex.join(["zoo", *run.arguments({"trainer.logger.init_args.version": run.name})])] = None
        elif run.name in needs or run.key not in needs.values():
            commands[run.command] = None
    sweep = ["```sh", f"make reproduce-{results.spec.name} SCALE={results.scale}", "```", ""]
    each = ["<details><summary>Its runs of the first seed, one by one</summary>", "", "```sh", *commands, "```", ""]
    return [*sweep, *each, "</details>"]


def _budget(run: Run, devices: int) -> int | None:
    """Training tokens of a run by its configuration; None where that does not say."""
    config = run.config()
    trainer, data = config.get("trainer", {}), config.get("data", {}).get("init_args", {})
    if not str(config.get("data", {}).get("class_path")).startswith(TOKENS) or data.get("view") == "sentences":
        return None
    numbers = [trainer.get("max_steps"), data.get("batch"), data.get("context")]
    return math.prod([*numbers, trainer.get("accumulate_grad_batches", 1), devices]) if all(numbers) else None


def _is_measured(results: Results, metric: Metric, rows: Iterable[str]) -> bool:
    return any((row, key) in results.cells for row in rows for key in metric.keys)


def _is_printed(spec: Spec, metric: Metric, rows: Iterable[str]) -> bool:
    return any(paper_value(spec, row, key) is not None for row in rows for key in metric.keys)


def _range(values: Iterable[float]) -> str:
    """Smallest to largest, as whole numbers; one number where they agree, nothing where there are none."""
    ends = sorted({f"{v:,.0f}": v for v in values}.values())
    return " to ".join(f"{v:,.0f}" for v in dict.fromkeys((ends[0], ends[-1]))) if ends else ""


def _listed(values: Iterable) -> str:
    return ", ".join(map(str, values))

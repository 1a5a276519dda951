"""The verdicts of a page in words: the paper's sentence, what was found, by how much, and what would decide what is open."""

import math
from collections import Counter

from benchmarks.cells import Results, metric_of
from benchmarks.spec import Claim
from benchmarks.verdict import HOLDS, NO_EFFECT, NOT_MEASURED, REVERSED, UNDECIDED, Part, Verdict

NOT_JUDGED = "not judged here"  # of claims that are of other scales
COUNTED = {  # verdicts as a list counts them: one, several
    HOLDS: ("holds", "hold"), REVERSED: ("reversed", "reversed"), NO_EFFECT: ("no effect", "no effect"),
    UNDECIDED: ("undecided", "undecided"), NOT_MEASURED: ("not measured", "not measured"),
    NOT_JUDGED: ("not judged here", "not judged here"),
}  # fmt: skip
MARGIN = {  # what a claim's margin is
    **dict.fromkeys(("better", "monotone", "rising"), "smallest difference that counts:"),
    "within": "allowed to be worse by", "agrees": "allowed to differ by",
}  # fmt: skip
BRACKETS = (
    "Brackets are 95 % intervals: Student's t of the differences paired by seed (the rows of a seed read the same text in the "
    "same order), or, of what is measured once, the relative error stated beforehand."
)
ADVICE = (
    "What would decide an undecided claim is an estimate to plan a new experiment by, whose seeds are written down before it "
    "runs: no seeds are added to these after looking."
)


def in_words(results: Results) -> list[str]:
    """The claims, numbered, each with its verdict; how many got which word, and what brackets and advice are."""
    spec = results.spec
    if not results.found:
        return [f"{i}. “{claim.sentence}” Not measured yet." for i, claim in enumerate(spec.claims, 1)]
    parts = [part for verdict in results.verdicts for part in verdict.parts]
    lines = [f"{tally(results)}.", ""]
    for i, (claim, verdict) in enumerate(zip(spec.claims, results.verdicts), 1):
        judged = (f"    {line}".rstrip() for line in _verdict(results, claim, verdict))
        apart = [""] if lines[-1].startswith("    - ") else []  # else some readers of markdown take it into the list above
        lines += [*apart, f"{i}. “{claim.sentence}”  ", *judged]  # two spaces: a new line follows
    intervals = [part.interval for part in parts if part.interval.n]
    notes = [BRACKETS] if any(math.isfinite(i.low) and i.low < i.high for i in intervals) else []
    notes += [ADVICE] if any(part.advice for part in parts) else []
    return [*lines, *(["", " ".join(notes)] if notes else [])]


def tally(results: Results) -> str:
    """ "2 hold, 1 reversed, 3 not measured"."""
    pairs = zip(results.spec.claims, results.verdicts)
    counts = Counter(verdict.word if results.can_judge(claim) else NOT_JUDGED for claim, verdict in pairs)
    return ", ".join(f"{counts[word]} {names[counts[word] > 1]}" for word, names in COUNTED.items() if counts[word])


def word_of(claim: Claim, word: str) -> str:
    """The verdict's word for a reader, with the claim's margin for δ."""
    return f"no effect larger than {claim.margin:g}" if word == NO_EFFECT else word


def number(value: float, digits: int) -> str:
    """With thousands separated, and no minus before a zero."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def _verdict(results: Results, claim: Claim, verdict: Verdict) -> list[str]:
    """The word, and the comparisons behind it: one in the same line, several below it."""
    measured = [part for part in verdict.parts if part.word != NOT_MEASURED]
    head = f"**{word_of(claim, verdict.word).capitalize()}**"
    if not results.can_judge(claim):
        return [f"**Not judged at this scale**: {claim.why}."]
    if not measured:
        return [f"{head}: {'; '.join(dict.fromkeys(metric_of(results.spec, key).label for key in claim.metrics))}."]
    if len(verdict.parts) == 1:
        return [f"{head}: {_comparison(results, claim, measured[0])}"]
    body = [f"- {word_of(claim, part.word)}: {_comparison(results, claim, part)}" for part in measured]
    left = len(verdict.parts) - len(measured)
    return [f"{head}:", "", *body, *([f"- not measured: {left} more"] if left else [])]


def _comparison(results: Results, claim: Claim, part: Part) -> str:
    """“a is better than b by 0.107 [0.095, 0.119] (bits/byte, head 1), 3 seeds.”, and what would decide it."""
    rows, metric, found = [results.spec.runs[row].label for row in part.rows], metric_of(results.spec, part.metric), part.interval
    sign = -1 if claim.kind != "agrees" and found.mean < 0 else 1
    low, high = sorted((sign * found.low, sign * found.high))
    band = f" [{number(low, metric.digits)}, {number(high, metric.digits)}]" if math.isfinite(low) and low < high else ""
    size = number(sign * found.mean, metric.digits) + band
    which = metric.label if len(metric.keys) == 1 else f"{metric.label}: {part.metric}"
    seeds = (
        f"{found.n} seeds"
        if found.n > 1
        else "one seed"
        if metric.error is None
        else "exactly"
        if low == high
        else "measured once"
    )
    margin = f"; {MARGIN[claim.kind]} {claim.margin:g}" if claim.margin else ""
    if claim.kind == "agrees":
        other = metric_of(results.spec, claim.metrics[1])
        text = f"{rows[0]}: {which} less {other.label} is {size}, {seeds}{margin}."
    elif claim.kind == "rising":
        before = claim.metrics[claim.metrics.index(part.metric) - 1]
        word = "better" if sign > 0 else "worse"
        text = f"{rows[0]}: {part.metric} is {word} than {before} by {size} ({metric.label}), {seeds}{margin}."
    elif found.low == found.high == 0:
        text = f"{rows[0]} and {rows[1]} are equal ({which}), {seeds}{margin}."
    else:
        text = f"{rows[0]} is {'better' if sign > 0 else 'worse'} than {rows[1]} by {size} ({which}), {seeds}{margin}."
    return " ".join(filter(None, (text, part.trend, part.advice)))

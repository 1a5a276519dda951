"""What the measurements say about a claim: a pure function of numbers, without files and without torch.

A claim is a set of comparisons of two cells, paired seed by seed; a seed that only one of them has is ignored. The difference is
signed so that positive favours the first row (for `agrees` it is metrics[0] - metrics[1]). Its 95 % interval is

- with two or more seeds, Student's t-interval of the paired differences; equal differences give an interval of width 0
- with one seed and a stated relative error e of both values a and b, their difference ± sqrt((e a)² + (e b)²); e = 0 is exact
- with one seed and no stated error, everything: nothing can be decided

One comparison with interval [low, high] and the claim's margin δ becomes a word:

| kind             | no effect larger than δ | holds                   | reversed              |
|------------------|-------------------------|-------------------------|-----------------------|
| better, monotone, rising | -δ < low and high < δ | low > 0           | high < 0              |
| within           |                         | low >= -δ               | high < -δ             |
| agrees           |                         | -δ <= low and high <= δ | high < -δ or low > δ  |

read from left to right, so that a significant difference smaller than δ is no effect; else it is `undecided`, or `not measured`
where the two cells share no seed. A claim of several comparisons (metrics, rows of `agrees`, consecutive rows of `monotone`,
consecutive metrics of `rising`)

- is reversed if any comparison is, at the level Bonferroni-corrected for their number, as one false alarm would be enough
- holds if all hold, at the plain level, as every one of them has to (intersection-union test)
- has no effect larger than δ if none has one, is not measured if none is, and is undecided otherwise

An undecided comparison says how many seeds or tokens would decide it if difference and spread are what they seem: so many that
four repetitions in five get a word. It plans a new experiment, whose seeds are written down before it runs; adding seeds until a
word appears raises the error rate above the stated one.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import linear_regression, mean, stdev

from benchmarks.spec import Claim

HOLDS, REVERSED, NO_EFFECT = "holds", "reversed", "no effect larger than δ"
UNDECIDED, NOT_MEASURED = "undecided", "not measured"

MOST_SEEDS, MOST_TOKENS = 1000, 100  # how far the advice looks: seeds, and times the tokens
STEADY = 0.05  # a power of tokens below which a gap is said to stay: 3.5 % over the second half of a run
_ALPHA = 0.05
_CHANCE = 0.84  # normal quantile of the four repetitions in five that the advice aims at

Cells = dict[tuple[str, str], dict[int, float]]
Curves = dict[tuple[str, str], dict[int, Sequence[tuple[float, float]]]]


@dataclass(frozen=True)
class Interval:
    """95 % interval of a paired difference over `n` seeds; infinite when one seed has no stated error, mean nan when n is 0."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Part:
    """One comparison: rows[0] against rows[1] on `metric`; for `agrees` one row, and its metrics[0]; for `rising` one row, and
    `metric` against the one before it.

    `interval` is the plain one, `word` is `reversed` at the corrected level only, `advice` is empty unless `word` is `undecided`;
    `trend` tells the course of the difference along the run, where there are curves.
    """

    rows: tuple[str, ...]
    metric: str
    interval: Interval
    word: str
    advice: str
    trend: str = ""


@dataclass(frozen=True)
class Verdict:
    """The claim's word (the machine's: δ stands for the margin), its comparisons, and the same as a sentence with the numbers."""

    word: str
    parts: list[Part]
    sentence: str


@dataclass(frozen=True)
class _Difference:
    """Paired differences of two cells over n seeds, in the metric's unit: their mean and their standard deviation."""

    mean: float
    spread: float
    n: int

    def half(self, comparisons: int = 1, slack: float = 0.0) -> float:
        """Half-width of the interval at the level corrected for so many comparisons, and `slack` standard errors more."""
        return self.spread * (_quantile(self.n, comparisons) + slack) / math.sqrt(self.n)


def judge(claim: Claim, cells: Cells, directions: dict[str, str], errors: dict[str, float | None], curves: Curves) -> Verdict:
    """The verdict of one claim, by the rules at the head of this file.

    Args:
        cells: (row, key) -> seed -> value; a missing cell and a value that is not finite count as not measured.
        directions: key -> "lower" or "higher", whichever is better.
        errors: key -> relative half-width (95 %) of one measurement, stated in advance, or None; used where there is one seed.
        curves: (row, key) -> seed -> [(tokens, value), …], the validation curve that belongs to the key; may lack any of them.
    """
    compared = _comparisons(claim)
    parts = []
    for rows, a, b in compared:
        key, sign = a[1], -1 if claim.kind != "agrees" and directions[a[1]] == "lower" else 1
        seeds, now = _paired(cells.get(a, {}), cells.get(b, {}), sign, errors.get(a[1]), errors.get(b[1]))
        if now is None:
            parts.append(Part(rows, key, Interval(math.nan, -math.inf, math.inf, 0), NOT_MEASURED, ""))
            continue
        gaps = _gaps(curves.get(a, {}), curves.get(b, {}), seeds, sign)
        word = _word(claim, now, len(compared))
        advice = _advice(claim, now, len(compared), gaps) if word == UNDECIDED else ""
        interval = Interval(now.mean, now.mean - now.half(), now.mean + now.half(), now.n)
        parts.append(Part(rows, key, interval, word, advice, _trend(claim, now, gaps)))
    words = {part.word for part in parts}
    word = REVERSED if REVERSED in words else words.pop() if len(words) == 1 else UNDECIDED
    return Verdict(word, parts, _sentence(claim, word, parts))


def _comparisons(claim: Claim) -> list[tuple[tuple[str, ...], tuple[str, str], tuple[str, str]]]:
    """(rows, cell, the cell it is compared with) for every comparison of the claim."""
    if claim.kind == "agrees":
        first, second = claim.metrics
        return [((row,), (row, first), (row, second)) for row in claim.rows]
    if claim.kind == "rising":
        return [((row,), (row, key), (row, before)) for row in claim.rows for before, key in pairwise(claim.metrics)]
    pairs = [(b, a) for a, b in pairwise(claim.rows)] if claim.kind == "monotone" else [tuple(claim.rows)]
    return [((a, b), (a, key), (b, key)) for a, b in pairs for key in claim.metrics]


def _paired(
    a: dict[int, float], b: dict[int, float], sign: int, error_a: float | None, error_b: float | None
) -> tuple[list[int], _Difference | None]:
    """The seeds that both cells have, and their differences."""
    seeds = sorted(seed for seed in a.keys() & b.keys() if math.isfinite(a[seed]) and math.isfinite(b[seed]))
    if not seeds:
        return [], None
    differences = [sign * (a[seed] - b[seed]) for seed in seeds]
    if error_a and error_b and len({(a[seed], b[seed]) for seed in seeds}) == 1:  # seeds that change nothing: one measurement
        seeds, differences = seeds[:1], differences[:1]
    if len(seeds) > 1:
        spread = stdev(differences)
    elif error_a is None or error_b is None:
        spread = math.inf
    else:
        spread = math.hypot(error_a * a[seeds[0]], error_b * b[seeds[0]]) / _quantile(1)
    return seeds, _Difference(mean(differences), spread, len(seeds))


def _word(claim: Claim, difference: _Difference, comparisons: int, slack: float = 0.0) -> str:
    """The word of one of so many comparisons, its intervals widened by `slack` standard errors."""
    centre, margin = difference.mean, claim.margin
    half, wide = difference.half(1, slack), difference.half(comparisons, slack)
    inside = -margin < centre - half and centre + half < margin
    if claim.kind == "within":
        return HOLDS if centre - half >= -margin else REVERSED if centre + wide < -margin else UNDECIDED
    if claim.kind == "agrees":
        holds = -margin <= centre - half and centre + half <= margin
        return HOLDS if holds else REVERSED if centre + wide < -margin or centre - wide > margin else UNDECIDED
    return NO_EFFECT if inside else HOLDS if centre - half > 0 else REVERSED if centre + wide < 0 else UNDECIDED


@cache
def _quantile(n: int, comparisons: int = 1) -> float:
    """Two-sided quantile for n seeds: Student's t; for one, whose spread was stated and not estimated, the normal one."""
    from scipy import stats  # here, so that a node without scipy can run what it need not judge

    at = 1 - _ALPHA / 2 / comparisons
    return float(stats.t.ppf(at, n - 1) if n > 1 else stats.norm.ppf(at))


def _gaps(a: dict[int, Sequence], b: dict[int, Sequence], seeds: list[int], sign: int) -> list[tuple[float, float]]:
    """(tokens, mean signed difference over the seeds) wherever all curves have a value, in order of tokens."""
    pairs = [(dict(a[seed]), dict(b[seed])) for seed in seeds if a.get(seed) and b.get(seed)]
    if not pairs:
        return []
    common = set.intersection(*(x.keys() & y.keys() for x, y in pairs))
    return [(tokens, mean(sign * (x[tokens] - y[tokens]) for x, y in pairs)) for tokens in sorted(common) if tokens > 0]


def _growth(gaps: list[tuple[float, float]], now: _Difference, margin: float) -> float | None:
    """p of |gap| ~ tokens^p: least squares in logarithms over the second half of the curve.

    None if there are fewer than three points, if they lie on both sides of zero, if the curve ends on the other side than the
    measured difference, or within that difference's standard error (one seed: within the claim's margin): of noise there is no
    course.
    """
    noise = margin if math.isinf(now.spread) else now.spread / math.sqrt(now.n)
    late = [gap for gap in gaps if 2 * gap[0] >= gaps[-1][0]]
    if len(late) < 3 or any(gap * now.mean <= 0 for _, gap in late) or min(abs(late[-1][1]), abs(now.mean)) < noise:
        return None
    return linear_regression([math.log(tokens) for tokens, _ in late], [math.log(abs(gap)) for _, gap in late]).slope


def _advice(claim: Claim, now: _Difference, comparisons: int, gaps: list[tuple[float, float]]) -> str:
    """The seeds at these tokens, and the tokens at these seeds, that would decide an undecided comparison. Both are estimates."""
    if math.isinf(now.spread):
        return "One seed shows no spread: at least 2 are needed, and 3 give an interval less than a third as wide."
    if now.spread == 0:
        return "The two are equal: neither seeds nor tokens are known to decide it."

    def decided(mean: float, n: int) -> bool:
        return _word(claim, _Difference(mean, now.spread, n), comparisons, _CHANCE) != UNDECIDED

    counts = range(now.n + 1, MOST_SEEDS + 1)
    place = bisect_left(counts, True, key=lambda n: decided(now.mean, n))  # intervals shrink with n: once decided, always decided
    unit = "seeds" if now.n > 1 else "repetitions"
    seeds = f"{counts[place]} {unit}" if place < len(counts) else f"More than {MOST_SEEDS} {unit}"
    here = f"at {_short(gaps[-1][0])} tokens" if gaps else "at these tokens"
    basis = f"estimated from a spread of {now.spread:.2g} " + (f"over {now.n} seeds" if now.n > 1 else "by the stated error")
    if _word(claim, now, 1) == REVERSED:
        seeds = f"Reversed at 95 %, but not at the level corrected for {comparisons} comparisons. {seeds}"
    if now.n == 1:
        return f"{seeds} would decide it ({basis})."

    power = _growth(gaps, now, claim.margin)
    if power is None:
        why = "its validation curve shows no steady gap" if gaps else "it has no validation curve"
    elif power < STEADY:
        why = f"the gap {_course(power)}"
    else:
        factors = (10 ** (step / 100) for step in range(1, round(100 * math.log10(MOST_TOKENS)) + 1))
        factor = next((factor for factor in factors if decided(now.mean * factor**power, now.n)), None)
        growing = f"a gap growing as tokens^{power:.2g}"
        if factor:
            tokens = f"{_seeds(now.n)} at about {_short(gaps[-1][0] * factor)} tokens"
            return f"{seeds} {here}, or {tokens}, would decide it ({basis} and {growing})."
        why = f"{growing} asks for over {MOST_TOKENS} times as many"
    return f"{seeds} {here} would decide it ({basis}); more tokens are not known to help: {why}."


def _trend(claim: Claim, now: _Difference, gaps: list[tuple[float, float]]) -> str:
    """The difference at a quarter, a half and the end of the validation curve, and where its course would lead: an estimate."""
    if len(gaps) < 4:
        return ""
    end, last = gaps[-1]
    places = dict.fromkeys(min(gaps, key=lambda gap: abs(gap[0] - share * end)) for share in (0.25, 0.5, 1))
    ahead = {gap > 0 for _, gap in places}
    side = "its lead was" if len(ahead) > 1 else "it was ahead by" if True in ahead else "it was behind by"
    shown = "+.2g" if len(ahead) > 1 else ".2g"
    values = ", ".join(f"{gap if len(ahead) > 1 else abs(gap):{shown}} at {_short(tokens)}" for tokens, gap in places)
    told = f"Along the run, on validation text, {side} {values} tokens".replace("-", "−")
    power = _growth(gaps, now, claim.margin)
    if power is None:
        return f"{told}: no steady course."
    if power >= STEADY or not claim.margin or abs(last) <= claim.margin:
        return f"{told}: in the second half the gap {_course(power)}."
    factor = (claim.margin / abs(last)) ** (1 / power) if power <= -STEADY else math.inf
    if factor > MOST_TOKENS:
        left = f"more than {claim.margin:g} of it at {MOST_TOKENS} times as many"
        return f"{told}: in the second half the gap {_course(power)}, which leaves {left}."
    where = f"{claim.margin:g} at about {_short(end * factor)} tokens"
    return f"{told}: in the second half the gap {_course(power)}, by which it would come down to {where}."


def _course(power: float) -> str:
    if abs(power) < STEADY:
        return "stays as it is"
    return f"{'grows' if power > 0 else 'shrinks'} as tokens^{power:.2g}".replace("-", "−")


def _sentence(claim: Claim, word: str, parts: list[Part]) -> str:
    """The verdict in words: the comparisons that made it, with their numbers and advice."""
    numbered = {NO_EFFECT: f"no effect larger than {claim.margin:g}"}
    if word == NOT_MEASURED:
        return "not measured: no two records share a seed."
    deciding = [part for part in parts if part.word == word]
    if not deciding:
        each = (f"{_described(part)}: {numbered.get(part.word, part.word)}" for part in parts)
        return f"{word}, as the comparisons differ: {'; '.join(each)}."
    share = f" in {len(deciding)} of {len(parts)} comparisons" if len(parts) > 1 else ""
    return f"{numbered.get(word, word)}{share}: {' '.join(f'{_described(part)}. {part.advice}'.rstrip() for part in deciding)}"


def _described(part: Part) -> str:
    """What is compared and found: `a against b on key, +0.031 [+0.012, +0.05], 3 seeds`."""
    pair, found = f"{' against '.join(part.rows)} on {part.metric}", part.interval
    if found.n == 0:
        return pair
    band = f" [{found.low:+.3g}, {found.high:+.3g}]" if math.isfinite(found.low) else ""
    return f"{pair}, {found.mean:+.3g}{band}, {_seeds(found.n)}"


def _seeds(n: int) -> str:
    return f"{n} seed" + "s" * (n != 1)


def _short(count: float) -> str:
    """1638400 -> "1.6M"."""
    count = float(f"{count:.2g}")
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"

"""The numbers of a page, without its words: what the records say of every row and metric, how sure that is, and the verdicts.

Records are found by the key of their run, so a run that two specs ask for counts for both.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import mean, stdev

from benchmarks import record, verdict
from benchmarks.record import Record
from benchmarks.spec import Claim, Metric, Run, Spec, expand, identity

_DERIVED = re.compile(r"(ratio|gap)\((.+)\)")
_OF_CURVES = re.compile(r"saving\((.+)\)")
_EXP = re.compile(r"exp\((.+)\)")
_APART = {"ratio": lambda a, b: a / b if b else None, "gap": lambda a, b: a - b}
_ITSELF = {"ratio": 1.0, "gap": 0.0}


@dataclass(frozen=True)
class Results:
    """A spec at a scale, and the records there are; everything else follows from these."""

    spec: Spec
    scale: str
    records: list[Record]

    @cached_property
    def runs(self) -> list[Run]:
        return expand(self.spec, self.scale)

    @cached_property
    def found(self) -> dict[str, dict[int, Record]]:
        """Row -> seed -> its newest ok record; rows without one are absent."""
        done = record.finished(self.records)
        found: dict[str, dict[int, Record]] = {}
        for run in self.runs:
            if run.key in done and done[run.key].data.get("fingerprint", "") == self._fingerprints[self._section(run)]:
                found.setdefault(run.row, {})[run.seed] = done[run.key]
        return found

    @cached_property
    def strangers(self) -> list[Record]:
        """Newest ok records of runs that read other data than the newest of their like did: not comparable, so left out."""
        done = record.finished(self.records)
        mine = [(run, done[run.key]) for run in self.runs if run.key in done]
        return [r for run, r in mine if r.data.get("fingerprint", "") != self._fingerprints[self._section(run)]]

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        """Data section -> fingerprint of its newest record."""
        done = record.finished(self.records)
        newest = sorted((done[run.key].date, self._section(run), run.key) for run in self.runs if run.key in done)
        return {section: done[key].data.get("fingerprint", "") for _, section, key in newest}

    def _section(self, run: Run) -> str:
        return identity(run.config().get("data", {}))

    @cached_property
    def used(self) -> list[Record]:
        """Records that the page stands on: of the rows, and of what they needed."""
        done = record.finished(self.records)
        return [done[key] for key in dict.fromkeys(run.key for run in with_needs(self.runs)) if key in done]

    @property
    def needed(self) -> list[Record]:
        """Those of what the rows needed alone."""
        rows = {run.key for run in self.runs}
        return [r for r in self.used if r.key not in rows]

    @cached_property
    def failed(self) -> list[Record]:
        """Runs whose newest record is a failure, even where an older one is ok."""
        mine = {run.key for run in with_needs(self.runs)}
        newest = {r.key: r for r in sorted(self.records, key=lambda r: r.date) if r.key in mine}
        return sorted((r for r in newest.values() if r.status == "failed"), key=lambda r: (r.run, r.seed))

    @cached_property
    def cells(self) -> verdict.Cells:
        """(row, key) -> seed -> value, for the keys of all metrics; what nobody measured is absent."""
        keys = [key for metric in self.spec.metrics for key in metric.keys]
        every = {(row, key): self._values(row, key) for row in self.spec.runs for key in keys}
        return {place: values for place, values in every.items() if values}

    @cached_property
    def curves(self) -> verdict.Curves:
        """(row, key) -> seed -> [(tokens, value), …] along the run: of a key `test/x` the curve is that of `val/x`."""
        keys = [key for metric in self.spec.metrics for key in metric.keys]
        every = {(row, key): self._curves(row, key) for row in self.spec.runs for key in keys}
        return {place: dict(curves) for place, curves in every.items() if curves}

    @cached_property
    def verdicts(self) -> list[verdict.Verdict]:
        """One per claim."""
        metrics = {key: metric for metric in self.spec.metrics for key in metric.keys}
        directions: dict[str, str] = {key: metric.direction for key, metric in metrics.items()}
        errors = {key: metric.error for key, metric in metrics.items()}
        judged = [(claim, self.cells if self.can_judge(claim) else {}) for claim in self.spec.claims]
        return [verdict.judge(claim, cells, directions, errors, self.curves) for claim, cells in judged]

    def can_judge(self, claim: Claim) -> bool:
        """Whether this scale is one at which the claim can be judged."""
        return claim.scales is None or self.scale in claim.scales

    def is_reference(self, row: str, key: str) -> bool:
        """Whether others are compared with this row in `ratio(…)` and `gap(…)`, and it with nothing else."""
        return bool(_DERIVED.fullmatch(key)) and self._baseline(row) == row

    def _baseline(self, row: str) -> str | None:
        """The row that this one is compared with: itself, if it is there to be compared with."""
        against = {other.baseline for other in self.spec.runs.values()}
        return self.spec.runs[row].baseline or (row if row in against else None)

    def _values(self, row: str, key: str) -> dict[int, float]:
        if match := _EXP.fullmatch(key):
            return {seed: math.exp(value) for seed, value in self._values(row, match[1]).items()}
        if match := _OF_CURVES.fullmatch(key):
            mine, theirs = (self._curves(name, match[1]) if name else {} for name in (row, self._baseline(row)))
            return {seed: saving(mine[seed], theirs[seed]) for seed in mine if seed in theirs and row != self._baseline(row)}
        if match := _DERIVED.fullmatch(key):
            own, other = (self._values(name, match[2]) if name else {} for name in (row, self._baseline(row)))
            values = {seed: _APART[match[1]](own[seed], other[seed]) for seed in own if seed in other}
        else:
            values = {seed: r.value(key) for seed, r in self.found.get(row, {}).items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def _curves(self, row: str, key: str) -> dict[int, list[tuple[float, float]]]:
        if match := _EXP.fullmatch(key):
            inner = self._curves(row, match[1])
            return {seed: [(tokens, math.exp(value)) for tokens, value in curve] for seed, curve in inner.items()}
        if match := _DERIVED.fullmatch(key):
            own, other = (self._curves(name, match[2]) if name else {} for name in (row, self._baseline(row)))
            both = {seed: (dict(own[seed]), dict(other[seed])) for seed in own if seed in other}
            curves = {seed: [(t, _APART[match[1]](a[t], b[t])) for t in a if b.get(t)] for seed, (a, b) in both.items()}
        else:
            name = key.replace("test/", "val/", 1)
            found = {seed: r.curve.get(name, []) for seed, r in self.found.get(row, {}).items()}
            curves = {seed: [(tokens, value) for tokens, value in curve] for seed, curve in found.items()}
        return {seed: curve for seed, curve in curves.items() if curve}


def saving(own: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    """The share of its tokens that a run could have done without and still have ended where another one did.

    Curves [(tokens, value), …] of the same length in tokens, lower is better; between their points they are taken as straight.
    Below 0 where the run ended worse: what the other one could have done without, with the sign turned.
    """
    sign, ahead, level = (1, own, other[-1][1]) if own[-1][1] <= other[-1][1] else (-1, other, own[-1][1])
    for (before, high), (after, low) in pairwise([(0.0, math.inf), *ahead]):
        if low <= level:
            reached = after if math.isinf(high) else before + (after - before) * (high - level) / (high - low)
            return sign * (1 - reached / ahead[-1][0])
    raise AssertionError("a curve ends at its last point")


def cells(spec: Spec, scale: str, records: Iterable[Record]) -> verdict.Cells:
    """(row, key) -> seed -> value: logged metrics, measured fields, `exp(key)`, and `ratio(key)` / `gap(key)` / `saving(key)`
    against the row's baseline.

    A seed that row or baseline lacks is left out, and so is a time of a run that shared its machine.
    """
    return Results(spec, scale, list(records)).cells


def paper_value(spec: Spec, row: str, key: str) -> float | None:
    """The paper's cell; where it prints none, what follows from its others: the logarithm of `exp(key)`, and `ratio(key)` and
    `gap(key)` of the row and its baseline."""
    paper = spec.runs[row].paper
    printed = paper.cells if paper else {}
    match, baseline = _DERIVED.fullmatch(key), spec.runs[row].baseline
    if key not in printed and f"exp({key})" in printed:
        return math.log(printed[f"exp({key})"])
    if key in printed or not match or baseline is None:
        return printed.get(key)
    own, other = paper_value(spec, row, match[2]), paper_value(spec, baseline, match[2])
    return None if own is None or other is None else _APART[match[1]](own, other)


def reference(key: str) -> float | None:
    """What a row compared with itself has: 1 for `ratio(key)`, 0 for `gap(key)`, None for any other key."""
    match = _DERIVED.fullmatch(key)
    return _ITSELF[match[1]] if match else None


def interval(values: dict[int, float], error: float | None) -> tuple[float, float | None]:
    """Mean over seeds and half-width of its 95 % interval.

    Over several seeds it is Student's t-interval, of one measurement (also where seeds change nothing) its stated relative error;
    None for an exact value, and where neither is there.
    """
    centre, n = mean(values.values()), len(values)
    if n == 1 or (error and len(set(values.values())) == 1):
        return centre, abs(centre) * error if error else None
    half = student(n) * stdev(values.values()) / math.sqrt(n)
    return centre, None if error == 0 and half == 0 else half


def student(n: int) -> float:
    """Two-sided 95 % quantile of Student's t for the mean of n values."""
    from scipy import stats  # here, so that a node without scipy can run what it need not judge

    return float(stats.t.ppf(0.975, n - 1))


def metric_of(spec: Spec, key: str) -> Metric:
    return next(metric for metric in spec.metrics if key in metric.keys)


def with_needs(runs: Iterable[Run]) -> Iterable[Run]:
    """The runs, and what they start from, needs first."""
    for run in runs:
        yield from with_needs(run.needs)
        yield run

"""Verdicts of made records: known answers, error rates by simulation, and whether the advice would have decided."""

import ast
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import verdict
from benchmarks.spec import Claim
from benchmarks.verdict import HOLDS, NO_EFFECT, NOT_MEASURED, REVERSED, UNDECIDED, judge

T2 = 4.302652729911275  # two-sided 95 % quantile of Student's t with 2 degrees of freedom, from a printed table


def made(rows, key="m"):
    """Row -> values in order of seed, as cells of one key."""
    return {(row, key): dict(enumerate(values)) for row, values in rows.items()}


def claim(kind="better", rows=("a", "b"), metrics=("m",), margin=0.0):
    return Claim(kind, list(rows), list(metrics), "A sentence.", margin)


def judged(cells, direction="higher", errors=None, curves=None, **about):
    this = claim(**about)
    return judge(this, cells, dict.fromkeys(this.metrics, direction), errors or {}, curves or {})


def differing(centre, half, direction="higher"):
    """Rows a and b with 3 seeds: their paired difference, in favour of a, has the 95 % interval centre ± half."""
    offsets = np.array([-1, 0, 1]) * half * math.sqrt(3) / T2
    base, sign = np.array([5.0, 9.0, 2.0]), 1 if direction == "higher" else -1
    return made({"a": base + sign * (centre + offsets), "b": base})


WORDS = [
    ("better", 0.0, 2.0, 1.0, HOLDS),
    ("better", 0.0, -2.0, 1.0, REVERSED),
    ("better", 0.0, 0.5, 1.0, UNDECIDED),
    ("better", 0.0, -0.5, 1.0, UNDECIDED),
    ("better", 4.0, 2.0, 1.0, NO_EFFECT),  # takes precedence over holds …
    ("better", 4.0, -2.0, 1.0, NO_EFFECT),  # … and over reversed
    ("better", 4.0, 0.5, 1.0, NO_EFFECT),
    ("better", 2.5, 2.0, 1.0, HOLDS),  # reaches out of (-δ, δ)
    ("better", 2.5, -2.0, 1.0, REVERSED),
    ("better", 1.0, 0.5, 1.0, UNDECIDED),
    ("monotone", 0.0, -2.0, 1.0, HOLDS),  # rows (a, b): b is to beat a
    ("monotone", 0.0, 2.0, 1.0, REVERSED),
    ("monotone", 4.0, 2.0, 1.0, NO_EFFECT),
    ("within", 1.0, 0.5, 1.0, HOLDS),
    ("within", 1.0, 0.5, 2.0, UNDECIDED),
    ("within", 1.0, -0.5, 0.4, HOLDS),
    ("within", 1.0, -1.5, 0.4, REVERSED),
    ("within", 1.0, -1.2, 0.4, UNDECIDED),
    ("within", 9.0, 9.0, 0.1, HOLDS),  # has no third word: gaining much is within
    ("within", 0.0, -0.1, 0.05, REVERSED),
]


@pytest.mark.parametrize("direction", ["lower", "higher"])
@pytest.mark.parametrize("kind, margin, centre, half, word", WORDS)
def test_words(kind, margin, centre, half, word, direction):
    found = judged(differing(centre, half, direction), direction, kind=kind, margin=margin)
    assert found.word == word and [part.word for part in found.parts] == [word]
    assert bool(found.parts[0].advice) == (word == UNDECIDED)


@pytest.mark.parametrize(
    "margin, centre, half, word",
    [(2.0, 0.5, 1.0, HOLDS), (2.0, -0.5, 1.0, HOLDS), (1.0, 0.5, 1.0, UNDECIDED), (1.0, 3.0, 1.0, REVERSED),
     (1.0, -3.0, 1.0, REVERSED), (0.0, 0.5, 1.0, UNDECIDED)],
)  # fmt: skip
@pytest.mark.parametrize("direction", ["lower", "higher"])
def test_agrees_compares_two_metrics_of_each_row_whatever_their_direction(margin, centre, half, word, direction):
    cells = differing(centre, half)
    cells = {("r", "m"): cells["a", "m"], ("r", "n"): cells["b", "m"]}
    found = judged(cells, direction, kind="agrees", rows=["r"], metrics=["m", "n"], margin=margin)
    assert found.word == word
    assert (found.parts[0].rows, found.parts[0].metric) == (("r",), "m")
    assert found.parts[0].interval.mean == pytest.approx(centre)


def test_rising_compares_each_metric_with_the_one_before_it():
    cells = {("r", key): {0: value, 1: value + 0.1, 2: value + 0.2} for key, value in (("m", 1.0), ("n", 2.0), ("o", 3.0))}
    rising = {"kind": "rising", "rows": ["r"]}
    assert judged(cells, "higher", **rising, metrics=["m", "n", "o"]).word == HOLDS
    assert judged(cells, "higher", **rising, metrics=["m", "o", "n"]).word == REVERSED
    assert judged(cells, "lower", **rising, metrics=["m", "n", "o"]).word == REVERSED
    assert [part.metric for part in judged(cells, "higher", **rising, metrics=["m", "n", "o"]).parts] == ["n", "o"]


def test_agrees_on_several_rows_is_reversed_by_one_of_them():
    good, bad = differing(0.0, 0.1), differing(3.0, 0.1)
    cells = {("r", "m"): good["a", "m"], ("r", "n"): good["b", "m"], ("s", "m"): bad["a", "m"], ("s", "n"): bad["b", "m"]}
    found = judged(cells, kind="agrees", rows=["r", "s"], metrics=["m", "n"], margin=1.0)
    assert found.word == REVERSED and [part.word for part in found.parts] == [HOLDS, REVERSED]


def test_the_interval_is_that_of_the_paired_t_test_and_positive_favours_the_first_row():
    rng = np.random.default_rng(0)
    for n in (2, 3, 7):
        a, b = rng.normal(size=n), rng.normal(size=n)
        expected = stats.ttest_rel(a, b).confidence_interval(0.95)
        got = judged(made({"a": a, "b": b})).parts[0].interval
        assert (got.low, got.high, got.n) == (pytest.approx(expected.low), pytest.approx(expected.high), n)
        lower = judged(made({"a": a, "b": b}), "lower").parts[0].interval
        assert (lower.mean, lower.low, lower.high) == (-got.mean, -got.high, -got.low)
        monotone = judged(made({"b": b, "a": a}), kind="monotone", rows=["b", "a"]).parts[0]
        assert monotone.interval == got and monotone.rows == ("a", "b")


def test_seeds_without_a_partner_and_values_that_are_no_number_are_ignored():
    cells = differing(2.0, 1.0)
    expected = judged(cells)
    cells["a", "m"] |= {7: 1e6, 9: math.nan}
    cells["b", "m"] |= {8: -1e6, 9: 1.0}
    assert judged(cells) == expected and expected.parts[0].interval.n == 3


def test_what_has_no_common_seed_is_not_measured():
    for cells in ({}, made({"a": [1.0]}), {("a", "m"): {0: 1.0}, ("b", "m"): {1: 1.0}}):
        found = judged(cells)
        assert found.word == NOT_MEASURED and [part.word for part in found.parts] == [NOT_MEASURED]
        assert found.parts[0].interval.n == 0 and found.sentence.startswith(NOT_MEASURED)


def test_one_seed_without_a_stated_error_decides_nothing():
    found = judged(made({"a": [9.0], "b": [1.0]}))
    assert found.word == UNDECIDED
    assert (found.parts[0].interval.mean, found.parts[0].interval.low, found.parts[0].interval.high) == (8.0, -math.inf, math.inf)
    assert "at least 2" in found.parts[0].advice and "inf" not in found.sentence


def test_one_seed_with_a_stated_error():
    def words(a, b, **about):
        return judged(made({"a": [a], "b": [b]}), errors={"m": 0.05}, **about)

    found = words(120.0, 100.0)
    half = math.hypot(6.0, 5.0)
    assert found.parts[0].interval == verdict.Interval(20.0, pytest.approx(20.0 - half), pytest.approx(20.0 + half), 1)
    assert found.word == HOLDS and words(100.0, 120.0).word == REVERSED and words(105.0, 100.0).word == UNDECIDED
    assert words(102.0, 100.0, margin=15.0).word == NO_EFFECT
    one_stated = {("r", "m"): {0: 104.0}, ("r", "n"): {0: 100.0}}
    for error, word in ((0.0, HOLDS), (0.05, UNDECIDED), (None, UNDECIDED)):
        errors = {"m": 0.01, "n": error}
        assert judged(one_stated, errors=errors, kind="agrees", rows=["r"], metrics=["m", "n"], margin=5.5).word == word


def test_a_stated_error_of_zero_compares_exactly():
    def words(a, b, **about):
        return judged(made({"a": [a], "b": [b]}), errors={"m": 0.0}, **about).word

    assert words(101, 100) == HOLDS and words(99, 100) == REVERSED and words(100, 100) == UNDECIDED
    assert words(100, 100, kind="within") == HOLDS and words(99, 100, kind="within", margin=1) == HOLDS
    assert words(98, 100, kind="within", margin=1) == REVERSED
    equal = {("r", "m"): {0: 100}, ("r", "n"): {0: 100}}
    assert judged(equal, errors={"m": 0.0, "n": 0.0}, kind="agrees", rows=["r"], metrics=["m", "n"]).word == HOLDS


def test_seeds_tell_more_than_a_stated_error():
    cells = differing(2.0, 1.0)
    assert judged(cells, errors={"m": 0.5}) == judged(cells)


def test_seeds_that_change_nothing_are_one_measurement():
    once = judged(made({"a": [105.0], "b": [100.0]}), errors={"m": 0.05})
    assert judged(made({"a": [105.0] * 3, "b": [100.0] * 3}), errors={"m": 0.05}) == once and once.word == UNDECIDED
    changed = judged(made({"a": [105.0, 105.0, 105.1], "b": [100.0] * 3}), errors={"m": 0.05})
    assert changed.word == HOLDS and changed.parts[0].interval.n == 3


def test_no_spread_is_an_interval_of_no_width():
    for gap, word in ((0.5, HOLDS), (-0.5, REVERSED), (0.0, UNDECIDED)):
        found = judged(made({"a": [1.0 + gap, 2.0 + gap], "b": [1.0, 2.0]}))
        interval = found.parts[0].interval
        assert (found.word, interval.low, interval.high) == (word, gap, gap)
    assert "The two are equal" in found.sentence
    assert judged(made({"a": [1.0, 2.0], "b": [1.0, 2.0]}), margin=0.01).word == NO_EFFECT
    assert judged(made({"a": [1.0, 2.0], "b": [1.0, 2.0]}), kind="within").word == HOLDS


def several(*intervals):
    """Cells and keys of a claim on several metrics, from (centre, half) of each."""
    keys = [f"m{i}" for i in range(len(intervals))]
    found = {}
    for key, (centre, half) in zip(keys, intervals):
        found |= {(row, key): values for (row, _), values in differing(centre, half).items()}
    return found, keys


@pytest.mark.parametrize(
    "intervals, margin, word",
    [
        ([(1.1, 1), (1.1, 1), (3, 1)], 0.0, HOLDS),  # each at the plain level
        ([(2, 1), (0.5, 1)], 0.0, UNDECIDED),
        ([(2, 1), (-9, 1)], 0.0, REVERSED),
        ([(0.5, 1), (-9, 1)], 0.0, REVERSED),
        ([(2, 1), (0.5, 1)], 5.0, NO_EFFECT),
        ([(7, 1), (0.5, 1)], 5.0, UNDECIDED),  # one holds, one has no effect
        ([(0.5, 1), (-9, 1)], 5.0, REVERSED),
    ],
)
def test_several_comparisons(intervals, margin, word):
    cells, keys = several(*intervals)
    found = judged(cells, metrics=keys, margin=margin)
    assert found.word == word
    assert [part.metric for part in found.parts] == keys


def test_reversed_needs_the_corrected_level():
    half = 1.0
    corrected = stats.t.ppf(1 - 0.025 / 3, 2) / T2  # half-width at the level for three comparisons
    assert corrected > 1.5
    for centre, word in ((-0.99 * corrected, UNDECIDED), (-1.01 * corrected, REVERSED)):
        cells, keys = several((centre, half), (5, 1), (5, 1))
        found = judged(cells, metrics=keys)
        assert (found.word, found.parts[0].word) == (word, word)
        assert found.parts[0].interval.high == pytest.approx(centre + half)  # the part shows the plain interval
        assert judged(cells, metrics=keys[:1]).word == REVERSED
        assert ("corrected for 3 comparisons" in found.sentence) == (word == UNDECIDED)
        within = judged(several((centre - 0.1, half), (5, 1), (5, 1))[0], metrics=keys, kind="within", margin=0.1)
        assert within.word == word
    stated = made({"a": [87.5], "b": [100.0]})
    assert judged(stated, errors={"m": 0.09}).word == REVERSED
    both = {**stated, ("a", "n"): {0: 200.0}, ("b", "n"): {0: 100.0}}
    assert judged(both, errors={"m": 0.09, "n": 0.09}, metrics=["m", "n"]).word == UNDECIDED


def test_a_claim_measured_in_part_can_be_reversed_but_not_hold():
    for centre, word in ((9, UNDECIDED), (-9, REVERSED)):
        cells, _ = several((centre, 1))
        found = judged(cells, metrics=["m0", "absent"])
        assert found.word == word and found.parts[1].word == NOT_MEASURED
    assert "not measured" in judged(several((9, 1))[0], metrics=["m0", "absent"]).sentence


def test_sentences_carry_the_numbers():
    assert judged(differing(0.002, 0.001), margin=0.01).sentence == (
        "no effect larger than 0.01: a against b on m, +0.002 [+0.001, +0.003], 3 seeds."
    )
    cells, keys = several((2, 1), (-9, 1))
    assert judged(cells, metrics=keys).sentence == "reversed in 1 of 2 comparisons: a against b on m1, -9 [-10, -8], 3 seeds."


# Error rates by simulation


def rates(times, rows, **about):
    """Share of each word over so many simulated tables of 3 seeds, whose rows differ by noise and share their seed's luck."""
    rng = np.random.default_rng(1)
    words = Counter()
    for _ in range(times):
        shared = rng.normal(3.0, 0.5, size=3)
        words[judged(made({row: shared + rng.normal(0, 0.1, size=3) for row in rows}), "lower", rows=rows, **about).word] += 1
    return {word: count / times for word, count in words.items()}


def slack(rate, times):
    """Three standard errors above the rate."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / times)


def test_false_positives_of_one_comparison():
    times = 10_000
    found = rates(times, ["a", "b"])
    for word in (HOLDS, REVERSED):  # 2.5 % each, and not far less: the test would notice an interval too wide
        assert 0.05 - slack(0.025, times) < found[word] < slack(0.025, times)


def test_false_positives_of_a_chain_of_rows():
    times = 6000
    found = rates(times, ["a", "b", "c", "d"], kind="monotone")
    assert found[REVERSED] < slack(0.025, times)  # uncorrected, it would be about 7 %
    assert found.get(HOLDS, 0) < 0.002


def test_false_positives_on_the_bounds_of_a_margin():
    rng, times, words = np.random.default_rng(2), 6000, Counter()
    for _ in range(times):  # the true difference is -δ: neither word of `within`, and not "no effect", is true
        cells = made({"a": rng.normal(-1.0, 0.3, size=3), "b": np.zeros(3)})
        words["within", judged(cells, kind="within", margin=1.0).word] += 1
        words["better", judged(cells, margin=1.0).word] += 1
    for place in (("within", HOLDS), ("within", REVERSED), ("better", NO_EFFECT)):
        assert words[place] / times < slack(0.025, times)


def test_coverage_of_the_interval():
    rng, times, true = np.random.default_rng(3), 10_000, 0.2
    covered = 0
    for _ in range(times):
        base = rng.normal(size=3)
        found = judged(made({"a": base + true + rng.normal(0, 0.3, size=3), "b": base})).parts[0].interval
        covered += found.low < true < found.high
    assert abs(covered / times - 0.95) < slack(0.05, times) - 0.05


# Advice


def numbers(advice):
    """(seeds, tokens that would do at the present seeds) of a piece of advice; None where it names none."""
    units = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    seeds = re.match(r"(\d+) seeds", advice)
    tokens = re.search(r"or \d+ seeds? at about ([\d.]+)([kMBT]?) tokens", advice)
    return seeds and int(seeds[1]), tokens and float(tokens[1]) * units[tokens[2]]


def decided(rng, n, centre, spread, **about):
    """Whether a repetition with n seeds gets a word."""
    base = rng.normal(size=n)
    return judged(made({"a": base + rng.normal(centre, spread, size=n), "b": base}), **about).word != UNDECIDED


@pytest.mark.parametrize("centre, half", [(1.0, 1.5), (-1.0, 2.0), (1.0, 4.0)])
@pytest.mark.parametrize("kind, margin", [("better", 0.0), ("within", 0.1)])
def test_the_advised_seeds_decide_most_repetitions_and_half_of_them_do_not(centre, half, kind, margin):
    advised, _ = numbers(judged(differing(centre, half), kind=kind, margin=margin).parts[0].advice)
    spread = half * math.sqrt(3) / T2
    rng, times = np.random.default_rng(4), 300
    share = {n: sum(decided(rng, n, centre, spread, kind=kind, margin=margin) for _ in range(times)) / times
             for n in (advised, advised // 2)}  # fmt: skip
    assert 0.7 < share[advised] < 0.95
    assert share[advised // 2] < 0.65


def test_seeds_aim_at_the_nearer_word():
    """A gap of 0.2 with δ = 1 is sooner shown to be small than to be there."""
    spread = 2.0 * math.sqrt(3) / T2
    small, _ = numbers(judged(differing(0.2, 2.0), margin=1.0).parts[0].advice)
    there, _ = numbers(judged(differing(0.2, 2.0)).parts[0].advice)
    assert small < there / 5

    def enough(n, distance):
        return (stats.t.ppf(0.975, n - 1) + stats.norm.ppf(0.8)) * spread / math.sqrt(n) < distance

    assert enough(small, 0.8) and not enough(small - 1, 0.8)
    assert enough(there, 0.2) and not enough(there - 1, 0.2)
    below, _ = numbers(judged(differing(-1.0, 2.0), kind="within", margin=0.1).parts[0].advice)
    assert enough(below, 0.9) and not enough(below - 1, 0.9)
    assert numbers(judged(differing(1.9, 2.0)).parts[0].advice)[0] == 4  # the fewest that are more than three


def curves(gap, seeds=3, steps=16, last=1_600_000, bends=0.0):
    """Curves of rows a and b, `gap(tokens)` apart in favour of a (higher is better), each with its own falling trend per seed."""
    tokens = [last * (i + 1) // steps for i in range(steps)]
    base = {seed: [(t, 3 + 0.1 * seed - bends * math.log(t)) for t in tokens] for seed in range(seeds)}
    ahead = {seed: [[t, value + gap(t)] for t, value in curve] for seed, curve in base.items()}
    return {("a", "m"): ahead, ("b", "m"): base}


@pytest.mark.parametrize("power", [0.3, 0.7, 1.5])
@pytest.mark.parametrize("side", [1, -1])
def test_the_advised_tokens_recover_a_planted_power_law(power, side):
    last, end, half = 1_600_000, 0.05 * side, 0.08
    found = judged(differing(end, half), curves=curves(lambda t: end * (t / last) ** power, bends=0.2))
    assert f"tokens^{power:.2g})" in found.parts[0].advice
    _, advised = numbers(found.parts[0].advice)
    needed = half * (T2 + stats.norm.ppf(0.8)) / T2  # the gap that decides at three seeds
    assert advised == pytest.approx(last * (needed / 0.05) ** (1 / power), rel=0.06)

    def word(tokens):  # four of five repetitions are decided at that gap, hardly half of them at the gap of a third of the tokens
        rng, centre, spread = np.random.default_rng(5), end * (tokens / last) ** power, half * math.sqrt(3) / T2
        return np.mean([decided(rng, 3, centre, spread) for _ in range(200)])

    assert word(advised) > 0.65 and word(advised / 3) < word(advised) - 0.1


def test_the_sentence_of_the_advice():
    advice = judged(differing(0.02, 0.03), curves=curves(lambda t: 0.02 * (t / 1.6e6) ** 0.4)).parts[0].advice
    assert re.fullmatch(
        r"\d+ seeds at 1\.6M tokens, or 3 seeds at about [\d.]+M tokens, would decide it "
        r"\(estimated from a spread of 0\.012 over 3 seeds and a gap growing as tokens\^0\.4\)\.",
        advice,
    ), advice


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (lambda t: -0.4 * t**-0.5, "it was behind by 0.4 at 1M, 0.28 at 2M, 0.2 at 4M tokens: in the second half the gap shrinks "
         "as tokens^−0.5, by which it would come down to 0.05 at about 64M tokens."),
        (lambda t: -0.4 * t**-0.1, "the gap shrinks as tokens^−0.1, which leaves more than 0.05 of it at 100 times as many."),
        (lambda t: -0.4 * t**0.02, "in the second half the gap stays as it is, which leaves more than 0.05 of it at 100 times"),
        (lambda t: 0.1 * t**0.25, "it was ahead by 0.1 at 1M, 0.12 at 2M, 0.14 at 4M tokens: in the second half the gap grows as "
         "tokens^0.25."),
        (lambda t: 0.1 if t == 4 else -0.1, "its lead was −0.1 at 1M, −0.1 at 2M, +0.1 at 4M tokens: no steady course."),
    ],
)  # fmt: skip
def test_the_course_of_a_decided_difference_is_told(gap, words):
    tokens = [250_000 * i for i in range(4, 17)]
    curves = {("a", "loss"): {s: [(t, 2.0 - gap(t / 1e6)) for t in tokens] for s in (0, 1)},
              ("b", "loss"): {s: [(t, 2.0) for t in tokens] for s in (0, 1)}}  # fmt: skip
    cells = {row: {s: found[s][-1][1] + 0.001 * s * (row[0] == "a") for s in (0, 1)} for row, found in curves.items()}
    claim = Claim("better", ["a", "b"], ["loss"], "…", 0.05)
    part = judge(claim, cells, {"loss": "lower"}, {"loss": None}, curves).parts[0]
    assert words in part.trend and part.trend.startswith("Along the run, on validation text, it")
    assert judge(claim, cells, {"loss": "lower"}, {"loss": None}, {}).parts[0].trend == ""


@pytest.mark.parametrize(
    "gap, words",
    [
        (lambda t: 0.02 * (t / 1.6e6) ** -0.5, "shrinks as tokens^−0.5"),
        (lambda t: 0.02, "the gap stays as it is"),
        (lambda t: 0.02 * (t / 1.6e6) ** 0.06, "asks for over 100 times as many"),
        (lambda t: -0.02, "no steady gap"),  # ends on the other side than the test
        (lambda t: 0.02 if t == 1_600_000 else -0.02, "no steady gap"),
        (None, "no validation curve"),
    ],
)
def test_where_more_tokens_are_not_known_to_help(gap, words):
    advice = judged(differing(0.02, 0.03), curves=curves(gap) if gap else {}).parts[0].advice
    assert "more tokens are not known to help" in advice and words in advice
    seeds, tokens = numbers(advice)
    assert seeds and not tokens


@pytest.mark.parametrize("early", [5.0, -5.0])
def test_only_the_late_half_of_the_curve_counts_and_it_has_to_have_one_sign(early):
    def gap(t):
        return early if t < 800_000 else 0.02 * (t / 1.6e6) ** 0.6

    def bent(t):
        return -0.02 if t == 1_000_000 else gap(t)

    assert "tokens^0.6)" in judged(differing(0.02, 0.03), curves=curves(gap)).parts[0].advice
    assert "no steady gap" in judged(differing(0.02, 0.03), curves=curves(bent)).parts[0].advice


def test_a_gap_within_its_noise_has_no_course():
    """However smooth its curve: of 0.002 ± 0.03 it is not known whether there is a gap at all."""
    part = judged(differing(0.002, 0.03), curves=curves(lambda t: 0.002 * (t / 1.6e6) ** 0.6)).parts[0]
    assert "no steady gap" in part.advice and part.trend.endswith("no steady course.")


def test_curves_are_paired_by_seed_and_token():
    cells, found = differing(0.02, 0.03), curves(lambda t: 0.02 * (t / 1.6e6) ** 0.6)
    expected = judged(cells, curves=found)
    found["a", "m"][7] = [(1_600_000, 99.0)]  # a seed that b has not
    found["b", "m"][1] = [*found["b", "m"][1], (2_000_000, 99.0)]  # a place where a has no value
    assert judged(cells, curves=found) == expected
    del found["a", "m"][0]
    assert judged(cells, curves=found) == expected  # planted alike in every seed: two curves tell the same


def test_a_gap_lost_in_noise_asks_for_more_seeds_than_anyone_has():
    advice = judged(differing(0.0001, 1.0)).parts[0].advice
    assert advice.startswith("More than 1000 seeds at these tokens")


def test_advice_from_a_stated_error():
    advice = judged(made({"a": [101.0], "b": [100.0]}), errors={"m": 0.01}).parts[0].advice
    assert re.match(r"\d+ repetitions would decide it \(estimated from a spread of 0\.73 by the stated error\)", advice)


def test_the_module_needs_no_torch_and_scipy_only_to_judge():
    tree = ast.parse(Path(verdict.__file__).read_text(encoding="utf-8"))
    top = [name for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)) for name in ast.unparse(node).split()]
    assert not {"scipy", "numpy", "torch"} & {name.split(".")[0] for name in top}

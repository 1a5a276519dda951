"""pass@k of HumanEval, MBPP and APPS with intervals over problems (MTP paper, Tables 1, S7 and S12), and the verb `zoo solve`."""

import argparse
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.tokenizer import Tokenizer
from zoo.evals.problems import load
from zoo.evals.samples import Drawing, Sample, signature, solve
from zoo.evals.sandbox import STANDARD, Jail, Jails, Limits

GRID = (0.1, 0.2, 0.4, 0.8)  # of Table S12
FIXED = {1: 0.1, 10: 0.8, 100: 0.8}  # the most frequent best temperature of Table S12, per k: named before any run of ours


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate of Chen et al. 2021 (arXiv 2107.03374, eq. 1): 1 - C(n - c, k) / C(n, k), the share of all sets of k
    out of n samples with at least one of the c correct ones. Exact up to the last rounding; needs 1 <= k <= n, 0 <= c <= n."""
    if not (1 <= k <= samples and 0 <= correct <= samples):
        raise ValueError(f"pass@{k} of {correct} correct among {samples} samples is not defined: k must lie in 1 .. samples.")
    return float(1 - Fraction(comb(samples - correct, k), comb(samples, k)))


def bootstrap(values: Sequence[float], level: float = 0.9, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean when the problems are drawn again with replacement; 90 % as in the paper's Figure 3.

    It tells how much the choice of problems matters, not how much another training run would differ.
    """
    values, random = np.asarray(values, float), np.random.default_rng(seed)
    means = np.array([values[random.integers(len(values), size=len(values))].mean() for _ in range(draws)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def scores(name: str, samples: int, correct: dict[float, Sequence[int]], fixed: dict[int, float]) -> dict[str, float]:
    """Metrics in percent of one set, from the number of correct samples of each problem at each temperature.

    `<name>@k`: at the temperature that `fixed` names for k, with `_low` and `_high` of its bootstrap interval.
    `<name>@k_oracle`: at the best temperature of the grid, chosen by this very score on these very problems as the paper's
    Table 1 does: biased upward, and no measure of what a user gets. Left out for a single temperature, where it means nothing.
    A k above the number of samples is left out.
    """
    found = {}
    for k, temperature in fixed.items():
        if k > samples:
            continue
        each = {t: [100 * pass_at_k(samples, c, k) for c in counts] for t, counts in correct.items()}
        found[f"{name}@{k}"] = float(np.mean(each[temperature]))
        found[f"{name}@{k}_low"], found[f"{name}@{k}_high"] = bootstrap(each[temperature])
        if len(each) > 1:
            found[f"{name}@{k}_oracle"] = max(float(np.mean(values)) for values in each.values())
    return found


def chosen(temperatures: Sequence[float], fixed: dict[int, float] | None) -> dict[int, float]:
    """The temperature of each k. Default: the only one there is, else FIXED. Raises ValueError for one outside the grid."""
    if fixed is None:
        fixed = dict.fromkeys(FIXED, temperatures[0]) if len(temperatures) == 1 else FIXED
    outside = sorted({t for t in fixed.values() if t not in temperatures})
    if outside or not temperatures:
        raise ValueError(
            f"pass@k is asked for at temperature {', '.join(map(str, outside))}, which is not among temperatures "
            f"{list(temperatures)}: add it, or name others in `fixed`, as {{1: 0.2, 10: 0.8}}."
        )
    return fixed


class CodeScores:
    """What is measured of a net: sets of problems, a grid of temperatures, and how samples are drawn and judged.

    Reads the problems and proves the jail when it is made: raises Unavailable where programs cannot be enclosed, now and not
    in an hour. sets, files, limit: as `zoo.evals.problems.load` takes them. fixed: see `chosen`.
    """

    def __init__(
        self,
        sets: Sequence[str],
        temperatures: Sequence[float],
        drawing: Drawing,
        fixed: dict[int, float] | None = None,
        files: dict[str, str | list[str]] | None = None,
        limit: int | None = None,
        limits: Limits = STANDARD,
    ):
        self.temperatures, self.fixed, self.drawing, self.limits = (
            list(temperatures),
            chosen(temperatures, fixed),
            drawing,
            limits,
        )
        unknown = sorted(set(files or {}) - set(sets))
        if unknown:
            raise ValueError(f"files are given for {', '.join(unknown)}, which is not among the sets {', '.join(sets)}.")
        self.problems = {name: load(name, (files or {}).get(name), limit) for name in sets}
        Jail(limits).close()

    def measure(
        self,
        name: str,
        net: nn.Module,
        tokenizer: Tokenizer,
        jails: Jails,
        folder: Path | None = None,
        place: tuple[int, int] = (0, 1),
        add: Callable[[Tensor], Tensor] = lambda counts: counts,
    ) -> dict[str, float]:
        """Metrics of one set. folder: where samples are kept. place: rank and number of processes, whose counts `add` sums up."""
        problems, (rank, world) = self.problems[name], place
        mine = range(rank, len(problems), world)
        counts = torch.zeros(3, len(self.temperatures), len(problems))  # correct, parsing, cut
        for row, temperature in enumerate(self.temperatures):
            path = None
            if folder is not None:
                key = signature(net, tokenizer, problems, temperature, self.drawing)
                share = f"-{rank}-of-{world}" if world > 1 else ""
                path = folder / f"{name}-{temperature}-{key}{share}.jsonl"
            solved = solve(net, tokenizer, [problems[i] for i in mine], temperature, self.drawing, jails, path)
            for i, samples in zip(mine, solved, strict=True):
                counts[:, row, i] = torch.tensor(tally(samples))
        counts = add(counts)
        correct = {t: counts[0, row].int().tolist() for row, t in enumerate(self.temperatures)}
        found = scores(name, self.drawing.samples, correct, self.fixed)
        total = counts[0].numel() * self.drawing.samples
        found[f"{name}_syntax"] = 100 * float(counts[1].sum()) / total
        found[f"{name}_cut_prompts"] = 100 * float(counts[2].sum()) / total
        return found


def tally(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """How many samples of a problem are correct, are Python, had a prompt that was cut."""
    return tuple(float(sum(each)) for each in zip(*((s.status == "passed", s.parses, s.cut) for s in samples), strict=True))


def main(args: list[str]) -> None:
    """`zoo solve FOLDER --sets humaneval …`: pass@k of a saved net."""
    parser = argparse.ArgumentParser(
        "zoo solve", description="Have a saved net solve code problems, and print pass@k in percent."
    )
    parser.add_argument("folder", help="a folder of save_pretrained: runs/<name>/<version>/pretrained")
    parser.add_argument("--sets", nargs="+", default=["humaneval"], help="of humaneval, mbpp, apps")
    parser.add_argument("--files", nargs="*", default=[], metavar="SET=FILE", help="read a set from a file")
    parser.add_argument("--samples", type=int, default=10, help="per problem and temperature")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.2])
    parser.add_argument("--limit", type=int, help="problems of each set")
    parser.add_argument("--tokens", type=int, default=512, help="length of a completion")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(args)

    from zoo.data.tokenizer import load_tokenizer
    from zoo.pretrained import from_pretrained

    files = dict(pair.split("=", 1) for pair in given.files if "=" in pair)
    if len(files) != len(given.files):
        raise ValueError(f"--files takes SET=FILE, such as humaneval=HumanEval.jsonl.gz; not {given.files}.")
    net = from_pretrained(given.folder).to(given.device)
    tokenizer = load_tokenizer(str(Path(given.folder) / "tokenizer"))
    grid = given.temperatures
    fixed = None if len(grid) == 1 or set(FIXED.values()) <= set(grid) else dict.fromkeys(FIXED, grid[0])
    wanted = CodeScores(given.sets, grid, Drawing(given.samples, given.tokens, given.batch), fixed, files, given.limit)
    with Jails(wanted.limits) as jails:
        for name in given.sets:
            found = wanted.measure(name, net, tokenizer, jails, Path(given.folder).parent / "samples")
            for key, value in found.items():
                print(f"{key:<24} {value:6.2f}")

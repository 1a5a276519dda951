"""Callbacks that compute and do not measure: figures 5 and 13 of the LCM paper (arXiv 2412.08821). Nets and data play no part."""

import math
from collections.abc import Sequence

import lightning as L
import torch

from zoo.lcm.cost import LLAMA2, PAPER, SONAR, ConceptModel, Sampling, SentenceSpace, TokenModel, TwoTowerShape
from zoo.nn.diffusion import Schedule

TERA = 1e12
NEAR, NEAR_TOP = (250, 500, 1000, 1500, 2000, 2500, 3000), 1e14  # tokens of figure 13's right panel, and where its axis ends
FAR, FAR_TOP = (1000, 5000, 10000, 20000, 30000, 40000, 50000, 54000, 60000), 1.5e15  # of its left panel
STATED = (1000, 3000, 10000, 60000)


class InferenceCost(L.Callback):
    """At test: floating-point operations of a document against its tokens (figure 13), by the formulas of `zoo.lcm.cost`.

    Logs, in 10¹² operations: `test/tflop_20@1000` and on, for sentences of 20 tokens and documents of 1,000, 3,000, 10,000 and
    60,000; `test/near_20@250` and on and `test/far_20@1000` and on, the same at the places where a curve is drawn, as long as it
    is within the axes of the paper's two panels; `test/tokens@250` and on, those places. Of sentences of 20 tokens, or the first
    of `lengths`, `test/growth`, operations at 60,000 tokens over those at 10,000. Of an LCM, `test/even@1000` and on, the tokens
    of a sentence above which it costs less than the token model (absent where it never does), and `test/times_20@1000` and on,
    the token model's operations over its own.

    Args:
        shape: of an LCM; None: the token model.
        sampling: of the LCM.
        space: that its sentences go through.
        other: the token model.
        lengths: tokens of a sentence.
        drawn: log the places of curves too.
    """

    def __init__(
        self,
        shape: TwoTowerShape | None = None,
        sampling: Sampling = PAPER,
        space: SentenceSpace = SONAR,
        other: TokenModel = LLAMA2,
        lengths: Sequence[int] = (20, 10, 40, 5),
        drawn: bool = True,
    ):
        self.concepts = shape and ConceptModel(shape, sampling, space)
        self.other, self.lengths, self.drawn = other, tuple(lengths), drawn

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        module.log_dict({f"test/{name}": value for name, value in self.measured().items()})

    def document(self, tokens: float, length: float) -> float:
        """Operations for a document."""
        return self.concepts.document(tokens, length) if self.concepts else self.other.document(tokens)

    def measured(self) -> dict[str, float]:
        """The numbers above, less "test/"."""
        found: dict[str, float] = {}
        for length in self.lengths:
            for tokens in STATED:
                cost = self.document(tokens, length)
                found[f"tflop_{length}@{tokens}"] = cost / TERA
                if self.concepts:
                    found[f"times_{length}@{tokens}"] = self.other.document(tokens) / cost
            for name, places, top in (("near", NEAR, NEAR_TOP), ("far", FAR, FAR_TOP)) if self.drawn else ():
                costs = {tokens: self.document(tokens, length) for tokens in places}
                found |= {f"{name}_{length}@{tokens}": cost / TERA for tokens, cost in costs.items() if cost <= top}
        if self.drawn:
            found |= {f"tokens@{tokens}": float(tokens) for tokens in (*NEAR, *FAR)}
        if self.concepts:
            even = {tokens: self.concepts.break_even(tokens, self.other) for tokens in STATED}
            found |= {f"even@{tokens}": length for tokens, length in even.items() if math.isfinite(length)}
        found["growth"] = self.document(60000, self.lengths[0]) / self.document(10000, self.lengths[0])
        return found


class ScheduleDensity(L.Callback):
    """At test: how densely a schedule's steps lie along λ, the log of the signal-to-noise ratio (figure 5).

    Logs `test/level1` and on, values of λ from low to high, and `test/density1` and on, p(λ) = -dt/dλ there, with t the share of
    the steps: between two steps it is 1 / T over their distance. `test/median` and `test/iqr`, of λ over all steps but the last,
    which is pure noise; `test/least` and `test/most`, its ends; and `test/centre`, where that is given.

    Args:
        schedule: of the noise.
        points: where the density is told, evenly spread over the steps.
        centre: where the median should lie.
    """

    def __init__(self, schedule: Schedule, points: int = 24, centre: float | None = None):
        if not 2 <= points <= schedule.steps - 2:
            raise ValueError(
                f"a schedule of {schedule.steps} steps has no density at {points} places: 2 to {schedule.steps - 2}."
            )
        self.schedule, self.points, self.centre = schedule, points, centre

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        module.log_dict({f"test/{name}": value for name, value in self.measured().items()})

    def measured(self) -> dict[str, float]:
        """The numbers above, less "test/"."""
        levels = self.schedule.snr[: self.schedule.steps - 1].double()  # (T - 1,) falling
        middle, density = between(levels, self.schedule.steps)
        chosen = torch.linspace(len(middle) - 1, 0, self.points).round().long()  # from low to high
        found = {f"level{place}": float(middle[index]) for place, index in enumerate(chosen, 1)}
        found |= {f"density{place}": float(density[index]) for place, index in enumerate(chosen, 1)}
        low, median, high = torch.quantile(levels, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
        found |= {"median": median, "iqr": high - low, "least": float(levels[-1]), "most": float(levels[0])}
        return found if self.centre is None else {**found, "centre": self.centre}


def between(levels: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Falling values of λ (T',) of a schedule of so many steps -> the middle between each two, and p(λ) there, both (T' - 1,)."""
    return (levels[1:] + levels[:-1]) / 2, 1 / (steps * (levels[:-1] - levels[1:]))

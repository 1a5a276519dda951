"""What the two diffusion nets share: steps and noise of training, and the loss (LCM paper, sec. 2.3.2)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.lcm.batch import QUARTERS, counted, drawn, shared, told, wide
from zoo.nn.diffusion import Predicts, Schedule, fragility_weights
from zoo.nn.fragility import FragilityModel

PART_WEIGHTS = {f"mse_quarter{number + 1}": 0.0 for number in range(QUARTERS)}  # they are parts of "mse" already


class Draw(NamedTuple):
    """What is done to the sentences of B documents, R = samples · B rows, sample by sample."""

    t: Tensor  # (R, S) steps, from 0
    noise: Tensor  # (R, S, E) standard normal
    dropped: Tensor  # (R, S) whose context is


class Diffusion(nn.Module):
    """A schedule, what a net says of it, and the loss.

    kind, steps: of the schedule. numbers: that it has: β₀ and β₁ of "quadratic", γ and δ of "sigmoid", s of "cosine".
    predicts: what the net says. snr: the weights of the loss are the signal-to-noise ratio, clamped to this (eq. 17; the paper
    tried (0, 10) and (0.001, 5)); None weighs all steps alike. snr_mean: the weights of a batch are brought to mean 1, as in the
    released code; eq. 17 leaves them as they are. drop: how often a sentence is learnt without its context.
    rows: "each" drops the context of every sentence of every document by itself; "batch" that of floor(drop · (S - 1)) places,
    never the first, in all documents of a batch, as the released code does. samples: versions of each sentence at a time.
    fragility: tells it of normalized vectors; the weights are then those of eq. 18 as well, with a and b in `fragility_numbers`
    (None: the paper's, -4 and 3.5).
    """

    def __init__(
        self,
        kind: Literal["cosine", "quadratic", "sigmoid"],
        steps: int,
        numbers: Sequence[float] | None,
        predicts: Predicts,
        snr: Sequence[float] | None,
        snr_mean: bool,
        drop: float,
        rows: Literal["each", "batch"],
        samples: int,
        fragility: FragilityModel | None = None,
        fragility_numbers: Sequence[float] | None = None,
    ):
        super().__init__()
        if predicts not in ("x0", "epsilon", "v"):
            raise ValueError(f"predicts is 'x0', 'epsilon' or 'v', not {predicts!r}.")
        if snr is not None and (len(snr) != 2 or not 0 <= snr[0] < snr[1]):
            raise ValueError(f"snr is the least and the largest weight, such as [0.001, 5], not {snr}.")
        if not 0 <= drop < 1 or samples < 1:
            raise ValueError(f"drop lies in [0, 1) and samples is at least 1, not {drop} and {samples}.")
        if fragility_numbers is not None and len(fragility_numbers) != 2:
            raise ValueError(f"fragility_numbers are a and b, such as [-4.0, 3.5], not {fragility_numbers}.")
        self.fragility_numbers = tuple(fragility_numbers or ())
        given = list(numbers or [])
        if given and len(given) != {"cosine": 1}.get(kind, 2):
            raise ValueError(
                f"schedule_numbers {given} do not fit a {kind} schedule: cosine has s, quadratic β₀ and β₁, sigmoid γ and δ."
            )
        named = {"cosine": ("s",), "sigmoid": ("gamma", "delta")}.get(kind, ("betas",))
        values = [tuple(given)] if named == ("betas",) else given
        self.schedule = Schedule(kind, steps, **(dict(zip(named, values)) if given else {}))
        self.predicts, self.snr, self.snr_mean, self.drop, self.rows, self.samples = predicts, snr, snr_mean, drop, rows, samples
        self._fragility = (fragility,)  # in a tuple, so that it is no part of the net

    def draw(self, batch: dict[str, Tensor]) -> Draw:
        """In training from torch's global generator, which the module seeds; else from the chunks' numbers. A batch may bring its
        own, as `step`, `noise` and `dropped`."""
        rows, size, width = batch["vec"].shape
        shape, device = (self.samples * rows, size), batch["vec"].device
        if "noise" in batch:
            return Draw(batch["step"], batch["noise"], batch["dropped"])
        if self.training:
            t, noise = torch.randint(self.schedule.steps, shape, device=device), torch.randn(*shape, width, device=device)
            return Draw(t, noise, self._dropped(shape, device))
        draws = [drawn(batch, (), 2 * k + 1, uniform=True) for k in range(self.samples)]
        t = (torch.cat(draws) * self.schedule.steps).long().clamp(max=self.schedule.steps - 1)
        noise = torch.cat([drawn(batch, (width,), 2 * k) for k in range(self.samples)])
        return Draw(t, noise, torch.zeros(shape, dtype=torch.bool, device=device))

    def _dropped(self, shape: tuple[int, int], device: torch.device) -> Tensor:
        if self.rows == "each":
            return torch.rand(shape, device=device) < self.drop
        chosen = torch.zeros(shape[1], dtype=torch.bool, device=device)
        chosen[1 + torch.randperm(shape[1] - 1, device=device)[: int(self.drop * (shape[1] - 1))]] = True
        return chosen.expand(shape)

    def noised(self, x0: Tensor, draw: Draw) -> Tensor:
        """Normalized vectors x0 (B, S, E) -> noised ones (R, S, E)."""
        return self.schedule.noised(x0.repeat(self.samples, 1, 1), draw.t, draw.noise).to(x0.dtype)

    def scored(self, said: Tensor, x0: Tensor, draw: Draw, batch: dict[str, Tensor]) -> dict:
        """Loss and parts of what a net says (R, S, E) of the vectors x0 (B, S, E) after a draw.

        Loss: mean over sentences of ω · squared error, summed over E; where a batch has `weight` (B, S), ω is times that. Parts:
        "mse", unweighted, and by quarters of the steps, from little noise to nothing else; sums and counts without graph.
        """
        x0 = wide(x0.repeat(self.samples, 1, 1))  # (R, S, E)
        learnt = counted(batch).repeat(self.samples, 1)  # (R, S)
        target = self.schedule.target(self.predicts, x0, draw.t, draw.noise)
        mse = (wide(said) - target).square().sum(-1)  # (R, S)
        weight = learnt.to(mse.dtype)
        if self.snr is not None:
            weight = self.schedule.clamped_snr(draw.t, *self.snr) * learnt
        count, whole = shared(learnt.sum(), weight.sum())
        if self.snr_mean:
            weight = weight * (count / whole)
        if self._fragility[0] is not None:
            with torch.no_grad():
                fragile = self._fragility[0].to(x0.device)(x0).clamp(0, 1)
                weight = weight * fragility_weights(fragile, *self.fragility_numbers)
        if "weight" in batch:
            weight = weight * batch["weight"].repeat(self.samples, 1)
        parts = told("mse", mse.detach(), learnt, draw.t, self.schedule.steps)
        return {"loss": (mse * weight).sum() / count, "parts": parts}

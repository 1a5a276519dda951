"""Diffusion of vectors in discrete time, variance preserving: schedules, what is predicted, weights, the sampler (LCM paper,
arXiv 2412.08821, sec. 2.3.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.nn.normalizer import exact

Predicts = Literal["x0", "epsilon", "v"]
CLIP = 100.0  # noise and vectors stay within it, as in the released code


class Schedule(nn.Module):
    """How much is left of a vector after each of T steps: x_t = α_t x₀ + σ_t ε with α_t² + σ_t² = 1 (eq. 7 to 11).

    kind: "cosine" (eq. 12, with `s`), "quadratic" (eq. 13, β₀ to β₁ in `betas`) or "sigmoid" (eq. 14: `gamma` is its γ, the scale
    of the noise levels, `delta` its δ, their centre). steps: T.
    rescale: α is moved so that the last step is pure noise (zero terminal SNR, Lin et al. 2023, algorithm 1).

    Step t counts from 0; its `alpha`, `sigma` and `snr` (log SNR λ_t = ln α²/σ², which is -inf at pure noise) are (T,) float32.
    """

    alpha: Tensor
    sigma: Tensor
    snr: Tensor

    def __init__(
        self,
        kind: Literal["cosine", "quadratic", "sigmoid"] = "cosine",
        steps: int = 100,
        *,
        s: float = 0.008,
        betas: tuple[float, float] = (0.001, 0.0012),
        gamma: float = 1.5,
        delta: float = 0.0,
        rescale: bool = True,
    ):
        super().__init__()
        if steps < 2:
            raise ValueError(f"a schedule has at least 2 steps, not {steps}.")
        t = torch.arange(steps + 1, dtype=torch.float64) / steps  # (T + 1,)
        if kind == "quadratic":
            if not 0 < betas[0] <= betas[1] < 1:
                raise ValueError(f"betas rise within (0, 1), which {betas} do not.")
            low, high = math.sqrt(betas[0]), math.sqrt(betas[1])
            beta = (low + torch.linspace(0, 1, steps, dtype=torch.float64) * (high - low)) ** 2
        elif kind in ("cosine", "sigmoid"):
            if kind == "cosine":
                left = torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2
            else:
                left = torch.sigmoid(delta - gamma * torch.logit(t.clamp(1e-32, 1)))  # what is left of x₀'s variance
            beta = (1 - left[1:] / left[:-1]).clamp(max=0.999)
        else:
            raise ValueError(f"a schedule is 'cosine', 'quadratic' or 'sigmoid', not {kind!r}.")
        alpha = (1 - beta).log().cumsum(0).div(2).exp()  # (T,)
        if rescale:
            alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        sigma = (1 - alpha**2).sqrt()
        self.steps, self.pure = steps, rescale  # pure: nothing is left at the last step
        for name, value in (("alpha", alpha), ("sigma", sigma), ("snr", 2 * (alpha.log() - sigma.log()))):
            self.register_buffer(name, value.float())  # saved with the net, which is filled in from a file

    def _apply(self, fn: Callable, recurse: bool = True) -> "Schedule":
        return super()._apply(exact(fn), recurse)

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x₀ (..., E), t (...) int64, noise (..., E) -> x_t (..., E)."""
        return self.alpha[t][..., None] * x0 + self.sigma[t][..., None] * noise

    def target(self, predicts: Predicts, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the net is to say of x_t (..., E): x₀, the noise, or v = α ε - σ x₀."""
        if predicts == "x0":
            return x0
        return noise if predicts == "epsilon" else self.alpha[t][..., None] * noise - self.sigma[t][..., None] * x0

    def clean(self, predicts: Predicts, said: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        """x₀ (..., E) of what the net says of x = x_t."""
        if predicts == "x0":
            return said
        alpha, sigma = self.alpha[t][..., None], self.sigma[t][..., None]
        return alpha * x - sigma * said if predicts == "v" else (x - sigma * said) / alpha.clamp(min=1e-4)

    def noise(self, x0: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        """ε (..., E) that makes x = x_t of x₀."""
        return (x - self.alpha[t][..., None] * x0) / self.sigma[t][..., None].clamp(min=1e-6)

    def clamped_snr(self, t: Tensor, low: float = 0.0, high: float = 5.0) -> Tensor:
        """ω (...) of steps t (...): the SNR kept within [low, high] (eq. 17)."""
        return self.snr[t].exp().clamp(low, high)


def fragility_weights(fragility: Tensor, a: float = -4.0, b: float = 3.5) -> Tensor:
    """ω (...) = sigmoid(a F + b) of fragility scores F (...) in [0, 1], 1 the most fragile (eq. 18). The paper's score is minus a
    similarity; with one in [-1, 0] all weights would lie above 0.97, which its figure 12 does not show: give 1 less the
    similarity."""
    return torch.sigmoid(a * fragility + b)


def trailing(steps: int, taken: int) -> list[int]:
    """`taken` of a schedule's steps in falling order, evenly spaced, from pure noise to near the end: 40 of 100 are 99, 97, 94,
    91, 89, …, 4, 1, from 0. (The released list is built with an integer stride: 40 become 50, or end at step 21.)

    Raises ValueError where there are not so many.
    """
    if not 1 <= taken <= steps:
        raise ValueError(f"a schedule of {steps} steps has no {taken} of them to take.")
    return [round(steps * (taken - i) / taken) - 1 for i in range(taken)]


@dataclass(frozen=True)
class Sampler:
    """DDIM from noise to a vector (sec. 2.3.2; the defaults are those of sec. 2.4.1, not of the released code).

    taken: S, steps of the schedule that are taken. guidance: g, 1 for none (eq. 20). rescale: φ, how far the guided noise gets
    the deviation of the conditional one. sigma: σ_init, deviation of the first noise. scale: λ_eps, which the noise is divided by
    where a step goes on from. eta: 0 is deterministic, 1 puts in as much fresh noise as DDPM. clip: of noise and vectors.
    predicts: what the net says.
    """

    taken: int = 40
    guidance: float = 3.0
    rescale: float = 0.7
    sigma: float = 0.6
    scale: float = 1.00045
    eta: float = 0.0
    clip: float = CLIP
    predicts: Predicts = "x0"

    def __post_init__(self):
        if self.predicts not in ("x0", "epsilon", "v") or self.taken < 1 or min(self.sigma, self.eta) < 0 or self.scale <= 0:
            raise ValueError(f"no sampler has these settings: {self}.")

    @property
    def guided(self) -> bool:
        return self.guidance != 1.0

    @torch.no_grad()
    def __call__(
        self,
        schedule: Schedule,
        say: Callable[[Tensor, int], tuple[Tensor, Tensor | None]],
        noise: Tensor,
        fresh: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """x₀ (..., E) from standard noise (..., E).

        say(x, t) -> what the net says of x = x_t with the context, and without it (only where `guided`; None otherwise).
        fresh() -> standard noise (..., E) of a step, for η > 0.
        """
        if self.eta and fresh is None:
            raise ValueError("eta above 0 puts fresh noise into every step, which is not to be had here: leave it at 0.")
        x, taken = noise * self.sigma, trailing(schedule.steps, self.taken)
        for place, t in enumerate(taken):
            with_context, without = say(x, t)
            alpha, sigma = schedule.alpha[t], schedule.sigma[t]  # views: nothing waits for the device
            x0 = schedule.clean(self.predicts, with_context, x, t)
            if schedule.pure and t == schedule.steps - 1:
                epsilon = x  # all is noise, and nothing can be said of it that guidance would compare
                if self.predicts == "epsilon":
                    x0 = torch.zeros_like(x)  # nor does the noise of it tell anything of x₀
            else:
                epsilon = schedule.noise(x0, x, t)
                if self.guided:
                    epsilon = self._guided(epsilon, schedule.noise(schedule.clean(self.predicts, without, x, t), x, t))
                epsilon = epsilon.clamp(-self.clip, self.clip)
                x0 = (x - sigma * epsilon) / alpha if self.guided else x0
            x0 = x0.clamp(-self.clip, self.clip)
            if place + 1 == len(taken):
                break
            after = taken[place + 1]
            spread = self._spread(schedule, t, after)
            x = schedule.alpha[after] * x0 + (schedule.sigma[after] ** 2 - spread**2).clamp(min=0).sqrt() * epsilon / self.scale
            if self.eta:
                x = x + spread * fresh()
        return x0

    def _guided(self, with_context: Tensor, without: Tensor) -> Tensor:
        epsilon = without + self.guidance * (with_context - without)
        if not self.rescale:
            return epsilon
        ratio = with_context.std(-1, keepdim=True) / epsilon.std(-1, keepdim=True).clamp(min=1e-8)
        return epsilon * (self.rescale * ratio + 1 - self.rescale)

    def _spread(self, schedule: Schedule, at: int, after: int) -> Tensor:
        """Deviation of the fresh noise of a step."""
        ratio = schedule.sigma[after] / schedule.sigma[at]
        kept = (schedule.alpha[at] / schedule.alpha[after]) ** 2
        return self.eta * ratio * (1 - kept).clamp(min=0).sqrt()

"""How the next token is chosen from logits: greedily, or at random with temperature, top-k and top-p."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Temperature, then top-k, then top-p, in this order.

    temperature: logits are divided by it; 0 takes the most likely token, and the other two then change nothing.
    top_k: keep the k most likely tokens, and those exactly as likely as the k-th. top_p: keep the fewest most likely tokens whose
    probabilities (after top-k) add up to at least p (nucleus sampling, arXiv 1904.09751); tokens as likely as the last are kept.
    Raises ValueError for a setting out of its range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature is 0 (greedy) or above, not {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k keeps at least 1 token, not {self.top_k}; leave it out to keep all.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p lies above 0 and at most at 1, not {self.top_p}; leave it out to keep all.")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """The distribution that tokens are drawn from, fp32, of logits (..., V); a point mass where greedy."""
        logits = logits.float()
        if self.greedy:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[..., -1:], -torch.inf)
        p = logits.softmax(-1)
        if self.top_p is None or self.top_p == 1:
            return p
        ordered = p.sort(descending=True).values
        wanted = ordered.cumsum(-1) - ordered < self.top_p  # what is more likely does not yet reach top_p
        least = ordered.masked_fill(~wanted, torch.inf).amin(-1, keepdim=True)
        p = p.masked_fill(p < least, 0.0)
        return p / p.sum(-1, keepdim=True)

    def choose(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One token (...) for each row of logits (..., V)."""
        return logits.argmax(-1) if self.greedy else draw(self.probabilities(logits), generator)


GREEDY = Sampling()


def draw(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One index (...) at random for each distribution (..., V), without waiting for the device.

    The first of V exponential clocks with these rates to ring; the distributions need not be normalised.
    """
    return (probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax(-1)

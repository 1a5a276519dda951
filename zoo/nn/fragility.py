"""How fragile a sentence is, told from its vector (LCM paper, sec. 2.4.4 and 2.5.2)."""

import math

import torch
from torch import Tensor, nn


class FragilityModel(nn.Module):
    """Fragility of a sentence from its normalized vector: three linear maps with ReLU between (LCM paper, sec. 2.4.4).

    width: E; hidden: of the two inner layers.
    """

    def __init__(self, width: int = 1024, hidden: int = 1024):
        super().__init__()
        self.config = {"width": width, "hidden": hidden}
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, vectors: Tensor) -> Tensor:
        """normalized vectors (..., E) -> (...)."""
        return self.layers(vectors).squeeze(-1)

    def fit(self, vectors: Tensor, targets: Tensor, steps: int = 500, batch: int = 256, lr: float = 1e-3, seed: int = 0) -> None:
        """Regress `targets` (N,) on normalized vectors (N, E). The weights that do best on a tenth of them are kept.

        Raises ValueError for fewer than 20 vectors.
        """
        if len(vectors) < 20:
            raise ValueError(f"{len(vectors)} sentences are too few to learn their fragility: give 20 at least.")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(vectors), generator=generator)
        held, train = order[: len(order) // 10], order[len(order) // 10 :]
        optimizer = torch.optim.AdamW(self.parameters(), lr, weight_decay=0.01)
        centre, spread = targets[train].mean(), targets[train].std().clamp_min(1e-6)
        wanted, best = (targets - centre) / spread, (math.inf, {})
        for step in range(steps):
            chosen = train[torch.randint(len(train), (min(batch, len(train)),), generator=generator)]
            loss = (self(vectors[chosen]) - wanted[chosen]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            optimizer.step()
            if step % 10 == 9 or step + 1 == steps:
                with torch.no_grad():
                    left = float((self(vectors[held]) - wanted[held]).square().mean())
                if left < best[0]:
                    best = left, {name: value.clone() for name, value in self.state_dict().items()}
        with torch.no_grad():
            self.load_state_dict(best[1])
            last = self.layers[-1]
            last.weight.mul_(spread)
            last.bias.mul_(spread).add_(centre)

    @torch.no_grad()
    def told(self, vectors: Tensor, targets: Tensor) -> float | None:
        """R², the share of the variance of `targets` (N,) that it tells from the vectors (N, E); None where they hardly vary."""
        spread = targets.var(unbiased=False)
        return None if spread < 1e-4 else float(1 - (self(vectors) - targets).square().mean() / spread)

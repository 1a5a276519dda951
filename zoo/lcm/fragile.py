"""Fragility on the test bed, where decoding is looking up the nearest vector: of each item, and figure 12 of the LCM paper."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import lightning as L
import numpy as np
import torch
from torch import Tensor

from zoo.lcm.chains import Chains
from zoo.nn.diffusion import fragility_weights
from zoo.nn.normalizer import Normalizer

if TYPE_CHECKING:
    from zoo.lcm.testbed import CodebookChains

LEVELS = tuple(i / 10 for i in range(1, 10))  # of noise, the paper's nine


def item_fragility(
    chains: Chains, normalizer: Normalizer, draws: int = 200, levels: Sequence[float] = LEVELS, seed: int = 0
) -> Tensor:
    """How often noise makes each item another one, the end too, over the levels: (M + 1,) float64 in [0, 1].

    Noise is that of eq. 27, `draws` times at each level (so its standard error is below 0.5 / √(9 draws)), the score that of
    eq. 26 with 1 for the same vector of the codebook and 0 for another; the paper's score is minus a similarity, this is 1 less
    it, as `fragility_weights` wants it.
    """
    vectors = torch.from_numpy(chains.vectors)[:, None].expand(-1, draws, -1)  # (M + 1, draws, E)
    generator, same = torch.Generator().manual_seed(seed), torch.zeros(len(vectors), dtype=torch.float64)
    for level in levels:
        found = chains.nearest(normalizer.noised(vectors, level, generator).numpy())  # (M + 1, draws)
        same += torch.from_numpy((found == np.arange(len(vectors))[:, None]).mean(1))
    return 1 - same / len(levels)


class WeightDensity(L.Callback):
    """At test, on `CodebookChains`: how the weights that are made of fragility lie in [0, 1] over the sentences of documents
    (figure 12).

    Logs `test/weight1` and on, the middles of `bins` equal parts of [0, 1], and `test/density1` and on, the density there;
    `test/weight_fragile` and `test/weight_robust`, mean weights of the tenth of the sentences that is most and least fragile;
    `test/weight_mean`, and `test/fragility_least`, `test/fragility_mean` and `test/fragility_most`.

    Args:
        a, b: of eq. 18.
        bins: of the density.
        draws: of noise at each of the nine levels.
    """

    def __init__(self, a: float = -4.0, b: float = 3.5, bins: int = 20, draws: int = 1000):
        if min(bins, draws) < 1:
            raise ValueError(f"WeightDensity: bins ({bins}) and draws ({draws}) are at least 1.")
        self.a, self.b, self.bins, self.draws = a, b, bins, draws

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        module.log_dict({f"test/{name}": value for name, value in self.measured(trainer.datamodule).items()})

    def measured(self, data: "CodebookChains") -> dict[str, float]:
        """The numbers above, less "test/"."""
        often = torch.from_numpy(data.chains.occurrences(data.context))
        fragile = item_fragility(data.chains, data.normalizer, self.draws)[often > 0]
        often = often[often > 0] / often.sum()
        weights = fragility_weights(fragile, self.a, self.b)
        place = (weights * self.bins).long().clamp(max=self.bins - 1)
        density = torch.zeros(self.bins, dtype=torch.float64).index_add_(0, place, often) * self.bins
        found = {f"weight{number + 1}": (number + 0.5) / self.bins for number in range(self.bins)}
        found |= {f"density{number + 1}": float(value) for number, value in enumerate(density)}
        order = fragile.argsort()
        found["weight_robust"], found["weight_fragile"] = (
            mean_of_first(weights[turned], often[turned], 0.1) for turned in (order, order.flip(0))
        )
        found |= {"weight_mean": float(weights @ often), "fragility_mean": float(fragile @ often)}
        return found | {"fragility_least": float(fragile.min()), "fragility_most": float(fragile.max())}


def mean_of_first(values: Tensor, share: Tensor, part: float) -> float:
    """Mean of values (N,) over the first `part` of the whole, of which each is a share (N,)."""
    taken = (part - (share.cumsum(0) - share)).clamp(min=0).minimum(share)
    return float(values @ taken / taken.sum())

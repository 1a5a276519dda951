"""How wide a next-token net must be to have as many parameters as a concept-mixing net uses (CoCoMix, App. A)."""

import math

import torch

from zoo.cocomix.net import CoCoMix
from zoo.nn.transformer import Transformer


def active_parameters(net: CoCoMix) -> int:
    """Parameters that a forward pass uses: the trunk's and the heads', the predictor's C d, and K_SAE d of the compressor.

    The vectors of the mixer are left out, as in the paper's count.
    """
    concepts, dim = net.mixer.predictor.weight.shape
    count = lambda module: sum(p.numel() for p in module.parameters())
    return count(net) - count(net.mixer) + (concepts + net.mixer.keep) * dim


def matched_dim(net: CoCoMix, multiple: int = 16) -> int:
    """The width of the next-token net of the same depth and heads whose size is nearest to this net's active parameters.

    Among multiples of `multiple` and of the number of heads. The paper's 624, 1072 and 2096 beside 512, 1024 and 2048.
    """
    wanted, heads = active_parameters(net), net.trunk.heads
    step = math.lcm(multiple, heads * (1 if net.trunk.flavour == "gpt2" else 2))
    settings = {name: net.config[name] for name in ("vocab", "layers", "heads", "flavour", "tied")}  # hidden follows dim

    def gap(dim: int) -> int:
        with torch.device("meta"):
            trunk = Transformer(**settings, dim=dim, positions=net.trunk.positions)
        return abs(sum(p.numel() for p in trunk.parameters()) - wanted)

    first = max(step, net.trunk.dim // step * step)
    return min(range(first, 4 * net.trunk.dim + step, step), key=gap)

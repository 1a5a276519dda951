import pytest
import torch

from zoo.cocomix.matching import active_parameters, matched_dim
from zoo.cocomix.net import CoCoMix
from zoo.ntp import NextToken


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "insert", "active", "matched"),
    [(512, 8, 8, 3, 68.27, 624), (1024, 24, 16, 5, 388.41, 1072), (2048, 24, 16, 5, 1380.80, 2096)],
)
def test_widths_of_the_paper(dim, layers, heads, insert, active, matched):
    with torch.device("meta"):
        net = CoCoMix(50257, 1024, dim, layers, heads, insert=insert)
    assert round(active_parameters(net) / 1e6, 2) == active and matched_dim(net) == matched


def test_a_small_one_of_the_other_flavour():
    with torch.device("meta"):
        net = CoCoMix(4096, 256, 96, 8, 6, concepts=8192, keep=16, flavour="llama")
    sizes = {dim: NextToken(4096, 256, dim, 8, 6) for dim in (96, 108, 120, 132, 144, 156, 168)}
    gaps = {dim: abs(sum(p.numel() for p in small.parameters()) - active_parameters(net)) for dim, small in sizes.items()}
    assert matched_dim(net, 4) == min(gaps, key=gaps.get) > 96


def test_heads_are_counted_like_the_blocks_they_replace():
    with torch.device("meta"):
        one, four = (CoCoMix(257, 64, 64, 8, 4, insert=2, concepts=512, n=n) for n in (1, 4))
    assert active_parameters(four) == active_parameters(one) and matched_dim(four) == matched_dim(one)

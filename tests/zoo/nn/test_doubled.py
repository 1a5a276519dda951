"""Two slots a token: order, sight and cache."""

import torch

from zoo.nn.doubled import DoubledCache, doubled_mask, interleaved


def test_each_vector_stands_behind_its_state():
    h, v = torch.arange(6.0).view(1, 3, 2), -torch.arange(6.0).view(1, 3, 2)
    assert interleaved(h, v)[0].tolist() == [[0, 1], [0, -1], [2, 3], [-2, -3], [4, 5], [-4, -5]]


def test_causal_sight_stays_causal_and_a_tree_keeps_its_branches():
    causal = torch.ones(4, 4, dtype=torch.bool).tril()
    assert doubled_mask(causal).equal(torch.ones(8, 8, dtype=torch.bool).tril())
    tree = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=torch.bool)  # two children of one root
    wanted = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert doubled_mask(tree).int().tolist() == wanted
    assert doubled_mask(torch.stack((tree, causal[:3, :3]))).shape == (2, 6, 6)


def test_the_upper_layers_hold_twice_as_much():
    cache = DoubledCache(1, 3, 2, 5, heads=1, head_dim=2)
    cache.lower.layer(0).append(*torch.randn(2, 2, 4, 1, 2))
    for layer in (1, 2):
        cache.upper.layer(layer).append(*torch.randn(2, 2, 8, 1, 2))
    cache.advance(4)
    cache.truncate([4, 3])
    assert cache.held == [4, 3] and cache.upper.held == [8, 6] and cache.capacity == 5
    slots = cache.upper.keys[0, 0, :8].clone()
    cache.keep([1, 1], torch.tensor([[0, 2], [0, 0]]))
    assert cache.held == [3, 3] and cache.upper.held == [6, 6]
    assert cache.upper.keys[0, 0, :6].equal(slots[[0, 1, 2, 3, 6, 7]])
    other = cache.empty(1, 3)
    other.put([0], cache.empty(1, 1))
    cache.select([1])
    assert cache.held == [3] and other.held == [0] and other.upper.keys.shape == (2, 1, 6, 1, 2)
